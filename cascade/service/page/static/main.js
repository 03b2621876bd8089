// Puts the page together, and keeps it up to date.
import { $, el, empty, get, svg } from "./dom.js";
import { fetchMoney, showMoney } from "./money.js";
import { fetchThresholds, knowCascades, showThresholds } from "./whatif.js";
import { watchRequests } from "./requests.js";
import { readyToPlay } from "./play.js";

const EVERY = 20_000, SOON = 1_500;
let timer = null, reading = false, again = false;

// A pattern for what is estimated, for all charts.
document.body.append(svg("svg", { width: 0, height: 0, "aria-hidden": "true", class: "unseen" }, svg("defs", {},
  svg("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("rect", { width: 2.2, height: 5, class: "good" })))));

function theme() {
  const system = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement, button = $("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = dark() ? "☀ Light" : "☾ Dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* not kept for the next time */ }
    label();
  });
  system.addEventListener("change", label);
  label();
}

function query() {
  const asked = new URLSearchParams({ days: $("period").value });
  if ($("tag").value) asked.set("tag", $("tag").value);
  return asked;
}

const notice = (words) => { if ($("notice").textContent !== words) $("notice").textContent = words; };

async function refresh() {
  if (reading) { again = true; return; }
  reading = true;
  clearTimeout(timer);
  try {
    showMoney(await fetchMoney(query()));
    showThresholds(await fetchThresholds(query()));
    notice("");
  } catch (error) {
    if (error.code === "no_ledger" || error.code === "missing_package") { without(error.message); return; }
    notice(`The figures cannot be shown now: ${error.message} They are tried again.`);
  } finally {
    reading = false;
    timer = setTimeout(tick, again ? SOON : EVERY);
    again = false;
  }
}
const tick = () => (document.hidden ? (timer = setTimeout(tick, EVERY)) : refresh());
function soon() { if (reading) again = true; else { clearTimeout(timer); timer = setTimeout(tick, SOON); } }

function without(message) {
  $("saving").replaceChildren(el("h2", {}, "What the cascade saves"), empty("There are no figures", message));
  for (const id of ["where", "days", "whatif"]) $(id).hidden = true;
}

async function begin() {
  theme();
  const service = await get("/page/api/service");
  $("logout").hidden = !service.login;
  if (!service.login) $("open").hidden = false;
  knowCascades(service.cascades);
  readyToPlay(service.cascades);
  for (const id of ["period", "tag"]) $(id).addEventListener("change", refresh);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
  await Promise.all([refresh(), watchRequests(soon)]);
}

begin().catch((error) => notice(`This page could not be filled: ${error.message}`));
