// The playground: what is served, one input, all tasks side by side. No library, no outside address; the token stays in memory.
"use strict";

const MOST_LABELS = 8;      // bars of one answer
const MOST_ROWS = 50;       // rows of one answer that are shown
const LARGEST = 20e6;       // bytes of a picture or a file
const at = (id) => document.getElementById(id);
const state = { token: "", models: [], chosen: new Set(), pictures: {}, values: {}, several: false, rows: "" };

function made(kind, text = "", attributes = {}) {
  const element = document.createElement(kind);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function ask(path, body) {
  const headers = {};
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  const told = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok && !told.answers) throw Object.assign(new Error(told.error), { status: answer.status });
  return told;
}

// --- what is served

async function look() {
  try {
    state.models = (await ask("/models")).models;
  } catch (error) {
    at("key").hidden = error.status !== 401;
    at("asking").hidden = true;
    at("served").textContent = error.status === 401 ? (state.token ? "this token is not known here" : "the server asks for a token") : error.message;
    return;
  }
  const count = state.models.length, waiting = state.models.filter((model) => !model.ready).length;
  at("served").textContent = `${count} ${count === 1 ? "task" : "tasks"} served${waiting ? `, ${waiting} not ready yet` : ""}`;
  at("key").hidden = true;
  at("docs").hidden = state.token !== "";  // a link brings no token
  at("asking").hidden = false;
  const first = state.models[0];
  state.chosen = new Set(state.models.filter((model) => first && shape(model) === shape(first)).map((model) => model.name));
  show();
  if (waiting) setTimeout(look, 1500);
}

const shape = (model) => JSON.stringify(model.columns.map((column) => [column.name, column.kind]).sort());
const chosen = () => state.models.filter((model) => state.chosen.has(model.name));

function show() {
  at("tasks").replaceChildren(...state.models.map((model) => {
    const button = made("button", model.name, { type: "button", class: "task", "aria-pressed": state.chosen.has(model.name), title: about(model) });
    button.onclick = () => {
      state.chosen.has(model.name) ? state.chosen.delete(model.name) : state.chosen.add(model.name);
      show();
    };
    return button;
  }));
  at("tasks").hidden = state.models.length < 2;
  const columns = new Map();
  for (const model of chosen()) for (const column of model.columns) if (!columns.has(column.name)) columns.set(column.name, column.kind);
  const single = [...columns].map(([name, kind]) => field(name, kind));
  const gathers = chosen().some((model) => model.gathers), pictures = [...columns.values()].includes("image");
  const several = (state.several || gathers) && !pictures;
  at("fields").replaceChildren(...(several ? [sheet([...columns.keys()])] : single));
  at("several").hidden = !columns.size || gathers || pictures;
  at("several").textContent = several ? "One row" : "Several rows";
  at("ask").disabled = !columns.size;
  if (!at("answers").children.length) at("answers").replaceChildren(made("p", "Answers appear here.", { class: "empty" }));
}

const about = (model) => `${model.task}${model.targets.length ? ` of ${model.targets.join(", ")}` : ""}`;

// --- the input

function field(name, kind) {
  const box = made("div"), id = `field ${name}`;
  const several = new Set(chosen().flatMap((model) => model.columns.map((column) => column.name))).size > 1;
  if (kind === "image") {
    box.append(made("span", several ? name : "Picture", { class: "label" }), picture(name));
    return box;
  }
  const input = kind === "text" ? made("textarea", "", { rows: 4 }) : made("input", "", { inputmode: kind === "number" ? "decimal" : "text" });
  input.id = id;
  input.value = state.values[name] ?? "";
  input.placeholder = kind === "text" ? "Type or paste some text · 输入文字" : kind;
  input.oninput = () => { state.values[name] = input.value; };
  box.append(made("label", several || kind !== "text" ? name : "Text", { for: id }), input);
  return box;
}

function picture(name) {
  const zone = made("label", "", { class: "drop" }), input = made("input", "", { type: "file", accept: "image/png,image/jpeg,image/webp,image/bmp,image/gif", "aria-label": name });
  const take = async (file) => {
    if (!file) return;
    if (file.size > LARGEST) return wrong(`${file.name} is larger than ${LARGEST / 1e6} MB`);
    wrong("");
    state.pictures[name] = { url: URL.createObjectURL(file), data: await base64(file) };
    show();
    await predict();
  };
  input.onchange = () => take(input.files[0]);
  zone.ondragover = (event) => { event.preventDefault(); zone.classList.add("over"); };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => { event.preventDefault(); zone.classList.remove("over"); take(event.dataTransfer.files[0]); };
  if (state.pictures[name]) {
    const shown = made("img", "", { src: state.pictures[name].url, alt: "the picture that is asked about" });
    shown.onload = () => shown.classList.toggle("tiny", shown.naturalWidth < 128);
    zone.append(shown);
  }
  zone.append(made("span", state.pictures[name] ? "Drop another" : "Drop a picture here, or click to choose one"), input);
  return zone;
}

function sheet(names) {
  const box = made("div"), rows = made("textarea", "", { rows: 9, id: "rows", spellcheck: "false", placeholder: `${names.join(",")}\n…` });
  const input = made("input", "", { type: "file", id: "file", accept: ".csv,.tsv,.txt,text/csv" });
  rows.value = state.rows;
  rows.oninput = () => { state.rows = rows.value; };
  input.onchange = async () => {
    const [file] = input.files;
    if (!file) return;
    if (file.size > LARGEST) return wrong(`${file.name} is larger than ${LARGEST / 1e6} MB`);
    wrong("");
    rows.value = state.rows = await file.text();
  };
  box.append(made("label", `Rows as CSV, the first line names the columns: ${names.join(", ")}`, { for: "rows" }), rows,
    made("label", "or from a file", { for: "file", class: "file" }), input);
  return box;
}

function parsed(text) {
  // RFC 4180, with a comma, a tab or a semicolon between the cells: whichever the first line has most of
  const [first] = text.split("\n", 1), mark = [",", "\t", ";"].sort((a, b) => first.split(b).length - first.split(a).length)[0];
  const lines = [];
  let cells = [], cell = "", quoted = false;
  const over = () => { cells.push(cell); cell = ""; };
  for (let i = 0; i < text.length; i++) {
    const sign = text[i];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[i + 1] === '"') cell += text[++i];
      else quoted = false;
    } else if (sign === '"' && !cell) quoted = true;
    else if (sign === mark) over();
    else if (sign === "\n") { over(); lines.push(cells); cells = []; }
    else if (sign !== "\r") cell += sign;
  }
  if (quoted) throw new Error("a quotation mark is never closed");
  over();
  lines.push(cells);
  const [names, ...rows] = lines.filter((line) => line.length > 1 || line[0].trim()), count = names?.length;
  if (!rows.length) throw new Error("there are no rows: the first line names the columns, the others are rows");
  return rows.map((row, i) => {
    if (row.length !== count) throw new Error(`row ${i + 1} has ${row.length} cells, and the first line ${count}`);
    return Object.fromEntries(names.map((name, k) => [name.trim(), row[k] === "" ? null : row[k]]));
  });
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

function row() {
  const made = {};
  for (const model of chosen()) {
    for (const { name, kind } of model.columns) {
      const value = kind === "image" ? state.pictures[name]?.data : state.values[name];
      made[name] = value === undefined || value === "" ? null : value;
    }
  }
  return made;
}

// --- the answers

function wrong(text) {
  at("wrong").textContent = text;
  at("wrong").hidden = !text;
}

async function predict() {
  const names = chosen().map((model) => model.name);
  if (!names.length) return;
  at("ask").disabled = true;
  wrong("");
  try {
    const began = performance.now();
    const told = await ask("/predict", { tasks: names, rows: at("rows") ? parsed(at("rows").value) : [row()] });
    const took = performance.now() - began;
    const tasks = names.length === 1 ? "1 task" : `${names.length} tasks`;
    at("time").textContent = `${tasks} at once: ${ms(told.seconds * 1000)}, ${ms(took)} seen from here`;
    at("answers").replaceChildren(...names.map((name) => card(state.models.find((model) => model.name === name), told.answers[name])));
  } catch (error) {
    wrong(error.message);
    if (error.status === 401) look();
  } finally {
    at("ask").disabled = false;
  }
}

const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const shown = (value) => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(3) : String(+value.toPrecision(5));

function card(model, answer) {
  const box = made("article", "", { class: "card" }), head = made("header");
  head.append(made("h2", model.name), made("span", about(model)));
  box.append(head);
  if (answer.error) {
    const bad = answer.rows ?? [{ error: answer.error }], several = bad.length > 1 || at("rows");
    for (const { row, error } of bad.slice(0, MOST_LABELS)) box.append(made("p", several && row ? `row ${row}: ${error}` : error, { class: "error" }));
    return box;
  }
  if (!answer.predictions.length) {
    box.append(made("p", "no answer for these rows", { class: "error" }));
    return box;
  }
  const stamp = made("p", `version ${answer.version}${answer.digest ? ` · ${answer.digest.slice(0, 12)}` : ""}`, { class: "more" });
  if (answer.predictions.length > 1 || isForecast(answer.predictions[0])) {
    box.classList.add("wide");
    box.append(...many(answer.predictions), stamp);
    return box;
  }
  const [told] = answer.predictions;
  box.append(value(told));
  const labels = [told.prediction].flat();
  if (told.scores) box.append(bars(told.scores, labels), ...rest(told.scores));
  else if (typeof told.score === "number") box.append(made("p", `score ${shown(told.score)}`, { class: "more" }));
  if (told.low !== undefined && told.low !== null) box.append(made("p", `90 % interval ${shown(told.low)} to ${shown(told.high)}`, { class: "more" }));
  box.append(stamp);
  return box;
}

function many(predictions) {
  // lists of numbers with quantiles are forecasts: a line with its band each; all else is a table
  const rest = predictions.length > MOST_ROWS ? [made("p", `and ${predictions.length - MOST_ROWS} more`, { class: "more" })] : [];
  const told = predictions.slice(0, MOST_ROWS);
  if (told.every(isForecast)) return [...told.map(curve), ...rest];
  const table = made("table"), head = made("tr"), scored = told.some((each) => typeof each.score === "number"), wide = told.some((each) => typeof each.low === "number");
  for (const name of ["row", "prediction", ...(scored ? ["score"] : []), ...(wide ? ["90 % interval"] : [])]) head.append(made("th", name));
  table.append(head);
  told.forEach((each, i) => {
    const line = made("tr");
    line.append(made("td", each.series || String(i + 1)), made("td", `${short(each.prediction)}${each.abstained ? " (abstains)" : ""}`));
    if (scored) line.append(made("td", typeof each.score === "number" ? shown(each.score) : ""));
    if (wide) line.append(made("td", typeof each.low === "number" ? `${shown(each.low)} to ${shown(each.high)}` : ""));
    table.append(line);
  });
  return [table, ...rest];
}

const isForecast = (told) => Array.isArray(told.prediction) && told.quantiles !== undefined;

function curve(told) {
  const levels = Object.keys(told.quantiles).sort((a, b) => a - b), width = 320, height = 110, steps = told.prediction.length;
  const low = told.quantiles[levels[0]], high = told.quantiles[levels.at(-1)];
  const least = Math.min(...low, ...told.prediction), most = Math.max(...high, ...told.prediction);
  const point = (value, i) => `${(steps < 2 ? width / 2 : (i * width) / (steps - 1)).toFixed(1)},${(height - 4 - ((height - 8) * (value - least)) / (most - least || 1)).toFixed(1)}`;
  const box = at("curve").content.firstElementChild.cloneNode(true), [picture, said] = box.children;
  picture.setAttribute("aria-label", `forecast of ${steps} steps`);
  picture.firstElementChild.setAttribute("points", [...low.map(point), ...high.map(point).reverse()].join(" "));
  picture.lastElementChild.setAttribute("points", told.prediction.map(point).join(" "));
  const times = told.time?.length ? `${told.time[0]} to ${told.time.at(-1)}` : `${steps} steps`;
  const ends = `${shown(told.prediction[0])} … ${shown(told.prediction.at(-1))}`;
  said.textContent = `${told.series ? `${told.series} · ` : ""}${times} · ${ends} · quantiles ${levels[0]} to ${levels.at(-1)} between ${shown(least)} and ${shown(most)}`;
  return box;
}

const short = (prediction) => typeof prediction === "number" ? shown(prediction)
  : Array.isArray(prediction) ? (typeof prediction[0] === "number" ? `${prediction.slice(0, 4).map(shown).join(", ")}${prediction.length > 4 ? ", …" : ""}` : prediction.join(" · ") || "none of the labels")
  : String(prediction);

function value(told) {
  const { prediction } = told;
  if (Array.isArray(prediction) && typeof prediction[0] === "number") {
    const first = prediction.slice(0, 6).map(shown).join(", ");
    return made("p", `[${first}${prediction.length > 6 ? ", …" : ""}] · ${prediction.length} numbers`, { class: "value long" });
  }
  const text = typeof prediction === "number" ? shown(prediction) : Array.isArray(prediction) ? prediction.join(" · ") || "none of the labels" : String(prediction);
  const box = made("p", text, { class: text.length > 60 ? "value long" : "value" });
  if (told.abstained) box.append(made("small", " (below the threshold: it abstains)"));
  return box;
}

function bars(scores, labels) {
  const list = made("ol");
  for (const [label, score] of ranked(scores).slice(0, MOST_LABELS)) {
    const line = made("li", "", labels.includes(label) ? { class: "chosen" } : {});
    line.style.setProperty("--share", `${Math.max(0, Math.min(1, score)) * 100}%`);
    line.append(made("span", label), made("span", `${(100 * score).toFixed(1)} %`));
    list.append(line);
  }
  return list;
}

const ranked = (scores) => Object.entries(scores).sort((a, b) => b[1] - a[1]);
const rest = (scores) => {
  const more = Object.keys(scores).length - MOST_LABELS;
  return more > 0 ? [made("p", `and ${more} more labels`, { class: "more" })] : [];
};

// --- the page

at("key").onsubmit = (event) => {
  event.preventDefault();
  state.token = at("token").value.trim();
  at("token").value = "";
  look();
};
at("several").onclick = () => { state.several = !state.several; show(); };
at("input").onsubmit = (event) => { event.preventDefault(); predict(); };
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); predict(); }
});
look();
