"""The network's model for people: what `ares-coordinator export` writes.

    subject       which model: a promoted cycle, its base, its stack, its evaluation; from the books
    adapter       the stack as one plain PEFT folder
    card          README.md of what is exported
    gguf_adapter  the same adapter for llama.cpp and Ollama
    merged        base and stack as one model
    manifest      every file with size and SHA-256, signed; and checking that
    build         all of it into one folder
    scripts       stand-alone training scripts of a cycle

Nothing here imports torch. It reads the database and never writes it, so an export may run beside
the coordinator. docs/exports.md is for those who use the result.
"""
