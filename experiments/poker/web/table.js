"use strict";
const SUITS = { c: "♣", d: "♦", h: "♥", s: "♠" }, NAMES = { c: "clubs", d: "diamonds", h: "hearts", s: "spades" };
const $ = (id) => document.getElementById(id);
let state = null, busy = false;

// An element; texts become text, never markup.
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.className = value;
    else if (name === "style") Object.entries(value).forEach(([key, text]) => node.style.setProperty(key, text));
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const bb = (value) => `${Number(value.toFixed(2))} bb`;
const signed = (value) => (value > 0 ? "+" : "") + bb(value);
const signs = (text) => text.replace(/\b([2-9TJQKA])([cdhs])\b/g, (whole, rank, suit) => rank + SUITS[suit]);
const percent = (share) => `${Math.round(100 * share)}%`;

function card(text) {
  if (!text) return el("span", { class: "card none", "aria-hidden": "true" });
  if (text === "back") return el("span", { class: "card back", "aria-label": "hidden card", role: "img" });
  const red = "dh".includes(text[1]) ? " red" : "";
  return el("span", { class: `card${red}`, role: "img", "aria-label": `${text[0]} of ${NAMES[text[1]]}` }, text[0], el("i", {}, SUITS[text[1]]));
}

async function ask(path, body) {
  const options = body ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) } : {};
  const answer = await fetch(path, options);
  const said = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(said.error), { status: answer.status });
  return said;
}

async function send(path, body) {
  if (busy) return;
  busy = true;
  document.querySelectorAll("#actions button").forEach((button) => { button.disabled = true; });
  try {
    show(await ask(path, body));
  } catch (error) {
    if (error.status === 409) show(await ask("/api/state"));
    else if (state) show(state);
    tell(error.message || "The table cannot be reached.", "error");
  } finally {
    busy = false;
  }
}

const act = (action, amount = "") => send("/api/act", { hand: state.hand, index: state.index, action, amount: String(amount) });
const next = () => send("/api/next", { hand: state.hand });

function tell(text, kind = "") {
  $("said").textContent = text;
  $("said").className = kind;
}

function show(now) {
  state = now;
  document.body.className = now.seats.length > 7 ? `${now.game} many` : now.game;
  $("where").textContent = `${now.game === "omaha" ? "Pot-limit Omaha" : "No-limit hold'em"} · hand ${now.hand}`;
  $("result").textContent = `${signed(now.won)} after ${now.hands} ${now.hands === 1 ? "hand" : "hands"}`;
  $("result").className = now.won > 0 ? "plus" : now.won < 0 ? "minus" : "";
  $("board").replaceChildren(...[0, 1, 2, 3, 4].map((at) => card(now.board[at])));
  $("pot").textContent = `Pot ${bb(now.pot)}`;
  $("seats").replaceChildren(...now.seats.map((seat, at) => seated(seat, at, now)));
  const street = /^(Flop|Turn|River|Hand)\b/;
  $("log").replaceChildren(...now.log.map((line) => el("li", { class: street.test(line) ? "street" : "" }, signs(line))));
  $("log").scrollTop = $("log").scrollHeight;
  tell(now.over ? `This hand ${signed(now.result)}` : `You can ${now.may.join(", ")}`, now.over ? "end" : "");
  $("actions").replaceChildren(...(now.over ? [button("Next hand", "N", next, "main")] : choices(now)));
  advise();
}

function seated(seat, at, now) {
  const angle = Math.PI / 2 + (2 * Math.PI * at) / now.seats.length;
  const holes = seat.cards || (seat.folded ? [] : Array(now.game === "omaha" ? 4 : 2).fill("back"));
  const kind = ["seat", seat.you && "you", seat.turn && "turn", seat.folded && "folded", seat.won > 0 && "won"].filter(Boolean).join(" ");
  const status = seat.won > 0 ? el("span", { class: "took" }, `wins ${bb(seat.won)}`) : el("span", {}, seat.folded ? "folded" : bb(seat.stack));
  const parts = [el("b", {}, seat.name), status, el("span", { class: "place" }, seat.place)];
  if (holes.length) parts.unshift(el("div", { class: "hole" }, ...holes.map(card)));
  if (seat.bet > 0) parts.push(el("span", { class: "bet" }, bb(seat.bet)));
  if (seat.place === "button") parts.push(el("span", { class: "dealer", title: "dealer button" }, "D"));
  return el("div", { class: kind, style: { "--x": Math.cos(angle).toFixed(4), "--y": Math.sin(angle).toFixed(4) } }, ...parts);
}

function button(label, key, pressed, kind = "") {
  return el("button", { type: "button", class: kind, "aria-keyshortcuts": key, onclick: pressed }, label, " ", el("kbd", {}, key));
}

function choices(now) {
  const { call, raise } = now.legal;
  const found = call
    ? [button("Fold", "F", () => act("fold")), button(`Call ${bb(call)}`, "C", () => act("call"), "main")]
    : [button("Check", "C", () => act("check"), "main")];
  if (!raise) return found;
  const word = raise.word === "raise" ? "Raise to" : "Bet";
  const size = el("input", { type: "number", id: "size", min: raise.least, max: raise.most, step: "any", value: raise.presets[0].total, "aria-label": `${word}, in big blinds` });
  const slide = el("input", { type: "range", min: raise.least, max: raise.most, step: "0.01", value: raise.presets[0].total, "aria-label": "size" });
  const confirm = button(`${word} ${bb(raise.presets[0].total)}`, "Enter", () => act(raise.word, size.value), "raise");
  const set = (value) => {
    size.value = Number(Number(value).toFixed(2));
    slide.value = size.value;
    confirm.firstChild.textContent = `${word} ${size.value} bb`;
  };
  size.addEventListener("input", () => { slide.value = size.value; confirm.firstChild.textContent = `${word} ${size.value || "…"} bb`; });
  slide.addEventListener("input", () => set(slide.value));
  const sizes = raise.presets.map((one, at) => el("button", { type: "button", class: "size", "aria-keyshortcuts": at + 1, onclick: () => set(one.total) }, `${one.label} ${bb(one.total)}`));
  return [...found, size, confirm, el("div", { class: "sizes" }, ...sizes, slide)];
}

async function advise() {
  const now = state, box = $("advised");
  if (now.over || !$("wanted").checked) {
    box.replaceChildren(el("p", { class: "note" }, now.over ? "The hand is over." : "Advice is hidden."));
    return;
  }
  box.replaceChildren(el("p", { class: "note" }, "…"));
  try {
    const found = await ask(`/api/advice?hand=${now.hand}&index=${now.index}`);
    if (state === now) box.replaceChildren(...advised(found));
  } catch (error) {
    if (state === now) box.replaceChildren(el("p", { class: "note" }, error.message));
  }
}

function advised(found) {
  const bars = found.model.flatMap((one) => [el("span", {}, one.label),
    el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: `fill ${one.kind}`, style: { width: percent(one.chance) } })), el("span", {}, percent(one.chance))]);
  const parts = [bars.length ? el("div", { class: "bars", id: "model", "aria-label": "the model's probabilities" }, ...bars) : el("p", { class: "note" }, "No model is loaded (--model DIR), so there are no probabilities.")];
  if (found.equity !== null) {
    const line = [el("span", { class: "fill", style: { width: percent(found.equity) } })];
    if (found.needed !== null) line.push(el("span", { class: "needed", style: { left: percent(found.needed) } }));
    const keys = [el("span", { class: "key", style: { "--c": "var(--good)" } }, `equity ${percent(found.equity)} ± ${percent(found.margin)} `)];
    if (found.needed !== null) keys.push(el("span", { class: "key", style: { "--c": "var(--bad)" } }, `a call needs ${percent(found.needed)}`));
    parts.push(el("div", { class: "equity", id: "equity" }, el("div", { class: "track", "aria-hidden": "true" }, ...line), ...keys));
  }
  parts.push(...found.sentences.map((text) => el("p", {}, text)));
  if (found.call_value !== null) parts.push(el("p", { class: "note" }, `A call is worth ${signed(found.call_value)} more than a fold, if nobody bets any more.`));
  return parts;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state) return;
  const typing = event.target.id === "size", key = event.key.toLowerCase();
  if (typing && key === "enter") {
    event.preventDefault();
    document.querySelector("button.raise").click();
  } else if (typing && key === "escape") event.target.blur();
  else if (!typing && key === "a") $("wanted").click();
  else if (!typing && key === "r" && $("size")) { event.preventDefault(); $("size").focus(); $("size").select(); }
  else if (!typing && "fcn123456".includes(key)) {
    const found = document.querySelector(`#actions [aria-keyshortcuts="${key.toUpperCase()}"]`);
    if (found) { event.preventDefault(); found.click(); }
  }
});
$("actions").addEventListener("submit", (event) => event.preventDefault());
$("wanted").addEventListener("change", () => state && advise());
ask("/api/state").then(show).catch(() => tell("The table cannot be reached.", "error"));
