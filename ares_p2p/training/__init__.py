"""From a base model and a public state to the next state.

Without torch (coordinator, auditors, anyone who checks):

    layout      which tensor lies where in the flat vector
    state       theta, mu, their snapshot and digest, the initial state
    outer       pseudo-gradient and Nesterov step, bit for bit
    roundsum    what the sum of a round is, whole or by parts
    lora_spec   rank and targets; the layout from config.json; plain PEFT adapter files
    base_files  which files a base consists of, and their digest

With torch and transformers:

    base        loads the frozen base, 4-bit or plain
    lora        puts the adapter on it; vectors in and out
    data        chat examples -> tokens, loss mask, packed batches
    inner       a peer's local steps
    evaluate    held-out NLL and its paired bootstrap

Import from the modules: this package imports nothing.
"""
