"use strict";
// Keeps a page of the dashboard up to date: fetches figures when they come into view, asks every two seconds whether
// the run has new records, and plays map and schedule over rounds. Needs plotly.js and figures.js.
const POLL_MS = 2000, PLAY_MS = 400;
const facts = document.body.dataset;
// plotly.js comes last and is large: figures are asked for while the browser still reads it.
const plotlyRead = new Promise(done => addEventListener("DOMContentLoaded", done));
let lastRound = null, shownRound = null, playing = false;

async function ask(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

function lost(yes) { document.getElementById("lost").hidden = !yes; }

function wanted(holder) {
  const at = "at" in holder.dataset && shownRound !== null ? "&round=" + shownRound : "";
  return holder.dataset.from + at;
}

async function draw(holder) {
  const address = wanted(holder), ticket = holder.ticket = (holder.ticket || 0) + 1;
  holder.stale = false;
  try {
    const spec = await (await ask(address)).json();
    await plotlyRead;
    if (holder.ticket !== ticket) return;
    await show(holder, spec);
    holder.classList.remove("waiting");
    holder.drawn = true;
    const plot = holder.querySelector(".plot");
    if (!plot.bound && plot.on) {
      plot.bound = true;
      plot.on("plotly_click", event => openDevice(holder, event.points[0]));
    }
  } catch (error) {
    if (holder.ticket !== ticket) return;
    holder.stale = true;
    if (!(error instanceof TypeError)) holder.textContent = error.message; else lost(true);
  }
}

function openDevice(holder, point) {
  if (!facts.run || !/^device_(map|place)$/.test(holder.dataset.name)) return;
  const device = point.customdata;
  if (Number.isInteger(device)) location.href = "device?run=" + encodeURIComponent(facts.run) + "&device=" + device;
}

const inView = new Set();
const watcher = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (!isIntersecting) { inView.delete(target); continue; }
    inView.add(target);
    if (!target.drawn && !target.ticket || target.stale) draw(target);
  }
}, {rootMargin: "300px"});
for (const holder of document.querySelectorAll(".figure")) watcher.observe(holder);

function refresh(holders) {
  return Promise.all([...holders].map(holder => {
    if (inView.has(holder)) return draw(holder);
    holder.stale = true;
  }));
}

function setRound(round) {
  shownRound = round;
  const play = document.getElementById("play");
  play.querySelector("input").value = round;
  play.querySelector("output").textContent = "round " + round;
  return refresh(document.querySelectorAll(".figure[data-at]"));
}

function startControl() {
  const play = document.getElementById("play");
  if (!play) return;
  const button = play.querySelector("button"), slider = play.querySelector("input");
  lastRound = Number(slider.max);
  let waiting;
  slider.oninput = () => {
    playing = false;
    button.textContent = "play";
    play.querySelector("output").textContent = "round " + slider.value;
    clearTimeout(waiting);
    waiting = setTimeout(() => setRound(Number(slider.value)), 120);
  };
  button.onclick = async () => {
    playing = !playing;
    button.textContent = playing ? "pause" : "play";
    if (playing && Number(slider.value) >= Number(slider.max)) await setRound(1);
    while (playing && Number(slider.value) < Number(slider.max)) {
      await Promise.all([setRound(Number(slider.value) + 1), new Promise(next => setTimeout(next, PLAY_MS))]);
    }
    playing = false;
    button.textContent = "play";
  };
}

function newRecords(found) {
  const first = facts.version === "";
  facts.version = found.version;
  const live = document.getElementById("live");
  if (live) live.innerHTML = found.live;
  if (first) return;
  const play = document.getElementById("play");
  if (play && found.last_round !== lastRound) {
    const followed = shownRound === null || shownRound === lastRound, slider = play.querySelector("input");
    lastRound = found.last_round;
    slider.max = lastRound;
    if (followed && !playing) {
      shownRound = null;
      slider.value = lastRound;
      play.querySelector("output").textContent = "round " + lastRound;
    }
  } else if (!play && found.last_round && !facts.device) return location.reload();
  refresh([...document.querySelectorAll(".figure[data-live]")].filter(h => !("at" in h.dataset) || shownRound === null));
}

async function pollRun() {
  const device = facts.device === undefined ? "" : "&device=" + facts.device;
  const found = await (await ask("state?run=" + encodeURIComponent(facts.run) + "&version=" + facts.version + device)).json();
  document.getElementById("status").innerHTML = found.status;
  const log = document.getElementById("log");
  if (log && log.textContent !== found.log) {
    const end = log.scrollTop + log.clientHeight >= log.scrollHeight - 5;
    log.textContent = found.log;
    if (end) log.scrollTop = log.scrollHeight;
  }
  if (found.version !== facts.version) newRecords(found);
}

async function pollList() {
  const live = document.getElementById("live"), text = await (await ask("list")).text();
  const chosen = new Set([...live.querySelectorAll("input:checked")].map(box => box.value));
  if (live.contains(document.activeElement)) return;
  live.innerHTML = text;
  for (const box of live.querySelectorAll("input")) box.checked = chosen.has(box.value);
}

async function poll() {
  try {
    if (!document.hidden) {
      if (facts.run !== undefined) await pollRun();
      else if (facts.list) await pollList();
      lost(false);
    }
  } catch (error) { lost(true); }
  setTimeout(poll, POLL_MS);
}

document.getElementById("look").onclick = () => {
  setDark(!dark);
  try { localStorage.setItem("dfl-ray-dark", dark ? "1" : "0"); } catch (error) { /* private window */ }
};
try {
  const kept = localStorage.getItem("dfl-ray-dark");
  if (kept !== null) setDark(kept === "1");
} catch (error) { /* private window */ }
startControl();
const later = document.querySelector("[data-later]");
if (later) ask(later.dataset.later).then(async answer => { later.innerHTML = await answer.text(); }).catch(() => lost(true));
const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
setTimeout(poll, facts.version === "" ? 0 : POLL_MS);
