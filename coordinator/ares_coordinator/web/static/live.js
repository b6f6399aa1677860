// Keeps a page up to date: when something happens, the page is fetched again and its parts marked
// `data-live` are put in the place of the old ones. What the server renders is rendered once.

const FALLBACK_MS = 10_000; // between two looks while the WebSocket is away
const QUIET_MS = 2_000; // a burst of events is one look, and not everybody looks at once
const SILENT_MS = 75_000; // the server says something every few seconds, or pings every 30

const banner = document.getElementById("connection");
let seen = null; // number of the newest event
let wait = 0; // tries since the connection was lost
let freshAt = Date.now();
let timer = null;
let connected = false;

const say = (text) => {
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = text === "";
};

const put = (fresh) => {
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (!next || next.innerHTML === part.innerHTML) continue;
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const path = focused && [...part.querySelectorAll(focused.tagName)].indexOf(focused);
    part.innerHTML = next.innerHTML;
    part.querySelectorAll("details").forEach((one, i) => (one.open = open[i] ?? false));
    part.querySelectorAll(".scroll").forEach((one, i) => (one.scrollLeft = scrolled[i] ?? 0));
    if (focused) part.querySelectorAll(focused.tagName)[path]?.focus({ preventScroll: true });
  }
};

const look = async () => {
  timer = null;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    put(new DOMParser().parseFromString(await answer.text(), "text/html"));
    freshAt = Date.now();
    if (!connected) say("Live updates are away; this page is asked for every few seconds.");
  } catch {
    const age = Math.round((Date.now() - freshAt) / 1000);
    say(`Disconnected. What you see is ${age} seconds old; trying again.`);
  }
};

const soon = (ms = QUIET_MS * (0.25 + 0.75 * Math.random())) => {
  timer ??= setTimeout(look, ms);
};

const connect = () => {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = seen === null ? "" : `?after=${seen}`;
  const socket = new WebSocket(`${scheme}://${location.host}/ws${query}`);
  let silence = null;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => socket.close(), SILENT_MS);
  };
  socket.addEventListener("open", () => {
    connected = true;
    wait = 0;
    heard();
    say("");
  });
  socket.addEventListener("message", ({ data }) => {
    heard();
    const said = JSON.parse(data);
    if (said.event === "hello" && seen === null) {
      seen = said.data.newest;
      return;
    }
    if (said.seq !== undefined) {
      if (said.seq <= seen) return; // the page was made with it
      seen = said.seq;
    }
    soon();
  });
  socket.addEventListener("close", () => {
    clearTimeout(silence);
    connected = false;
    wait += 1;
    setTimeout(connect, Math.min(30_000, 1_000 * 2 ** Math.min(wait, 5)) * (0.5 + Math.random() / 2));
    soon();
  });
};

connect();
setInterval(() => {
  if (!connected) soon(0);
}, FALLBACK_MS);
