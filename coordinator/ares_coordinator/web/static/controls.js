// The operator's buttons. Nothing is sent before the operator said yes; the token stays in this tab.

const form = document.getElementById("controls-form");
const dialog = document.getElementById("controls-dialog");
const question = document.getElementById("controls-question");
const answer = document.getElementById("controls-answer");
const KEY = "ares-operator-token";

form.elements.token.value = sessionStorage.getItem(KEY) ?? "";

const asked = (text) =>
  new Promise((resolve) => {
    question.textContent = text;
    const decide = (event) => {
      const yes = event.target.value === "yes";
      if (!yes && event.target.value !== "no" && event.type !== "close") return;
      dialog.removeEventListener("click", decide);
      dialog.removeEventListener("close", decide);
      if (dialog.open) dialog.close();
      resolve(yes);
    };
    dialog.addEventListener("click", decide);
    dialog.addEventListener("close", decide);
    dialog.showModal();
  });

const schedule = () => {
  const text = form.elements.schedule.value.trim();
  if (text === "" || text === "off" || text === "null") return null;
  return /^\d+(\.\d+)?$/.test(text) ? Number(text) : text;
};

const send = async (action) => {
  const address = action === "schedule" ? "/api/ares/schedule" : `/api/ares/training/${action}`;
  const reply = await fetch(address, {
    method: "POST",
    headers: {
      Authorization: `Bearer ${form.elements.token.value}`,
      "Content-Type": "application/json",
    },
    body: action === "schedule" ? JSON.stringify({ schedule: schedule() }) : undefined,
  });
  const said = await reply.json();
  if (!reply.ok) throw new Error(`${said.error.message}. ${said.error.hint} [${said.error.code}]`);
  return Object.entries(said)
    .map(([name, value]) => `${name}: ${value ?? "none"}`)
    .join(", ");
};

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button || !form.reportValidity()) return;
  sessionStorage.setItem(KEY, form.elements.token.value);
  if (!(await asked(button.dataset.ask))) return;
  button.setAttribute("aria-busy", "true");
  answer.className = "";
  try {
    answer.textContent = `${button.textContent}: ${await send(button.dataset.action)}`;
  } catch (fault) {
    answer.className = "bad";
    answer.textContent = `${button.textContent}: ${fault.message}`;
  } finally {
    button.removeAttribute("aria-busy");
  }
});
