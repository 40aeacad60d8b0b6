// The live page. The server sends the whole state whenever it changes; this script only draws it.

const LATEST = 12;
const SAYS = {
  queued: "queued", running: "running", retrying: "retrying", done: "done", failed: "failed",
  lost: "worker lost", missed: "not for it",
};
const page = (selector, root = document) => root.querySelector(selector);
const pages = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- what the buttons do

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-live]")) return;
  event.preventDefault();
  const button = page("button", form);
  if (button.getAttribute("aria-disabled") === "true") return say(button.dataset.why || "Not now.");
  if (form.dataset.busy) return;
  form.dataset.busy = "yes";
  try {
    const answer = await fetch(form.action, {
      method: "POST", body: new FormData(form), headers: { Accept: "application/json" },
    });
    const isJson = (answer.headers.get("Content-Type") || "").startsWith("application/json");
    say(isJson ? (await answer.json()).said : `The server answered ${answer.status} ${answer.statusText}.`);
  } catch {
    say("The shop does not answer.");
  } finally {
    delete form.dataset.busy;
  }
});

let fading;

function say(text) {
  const line = page("[data-said]");
  line.textContent = text;
  line.classList.remove("old");
  clearTimeout(fading);
  fading = setTimeout(() => line.classList.add("old"), 6000);
}

// --- what the server sends

const source = new EventSource("/live");
source.onopen = () => link("live");
source.onerror = () => link("lost", "no connection, trying again");
source.onmessage = (event) => draw(JSON.parse(event.data));

function link(state, text = state) {
  const line = page("[data-link]");
  line.dataset.link = state;
  page("span", line).textContent = text;
}

let seen = 0;

function draw(board) {
  put(page("[data-total]"), board.total);
  for (const [product, stock] of Object.entries(board.stock)) put(page(`[data-stock="${product}"]`), stock);
  const trouble = page("[data-trouble]");
  trouble.hidden = !board.trouble;
  put(trouble, board.trouble);
  if (board.stage?.lease_s) put(page("[data-lease]"), board.stage.lease_s);
  const hasNew = board.total > seen;
  seen = board.total;
  for (const lane of pages("[data-group]")) {
    const name = lane.dataset.group;
    drawCounts(lane, board.queues[name]);
    drawCells(lane, name, board.orders);
    drawTally(lane, name, board.tallies[name] ?? {});
    if (board.stage) drawStage(lane, board.stage.groups[name]);
    if (hasNew && lane.dataset.queue === "ok") pulse(lane);
  }
  drawLatest(board.orders.slice(0, LATEST));
}

function drawCounts(lane, queue) {
  lane.dataset.queue = queue?.state === "ok" ? "ok" : queue?.state === "missing" ? "missing" : "unknown";
  for (const cell of pages("[data-count]", lane)) put(cell, queue?.[cell.dataset.count] ?? "–");
  page(".dead", lane).classList.toggle("some", queue?.dead > 0);
  allow(page('[data-when="dead"]', lane), queue?.dead > 0, "There are no dead letters.");
}

function drawCells(lane, name, orders) {
  const box = page("[data-cells]", lane);
  const known = new Map([...box.children].map((cell) => [cell.dataset.order, cell]));
  const cells = orders.toReversed().map((order) => {
    const { state, tries } = order.steps[name];
    const cell = known.get(String(order.id)) ?? document.createElement("i");
    cell.className = "cell";
    cell.dataset.order = order.id;
    if (cell.dataset.state !== state) cell.dataset.state = state;
    cell.title = `order ${order.id}: ${words(state, tries)}`;
    return cell;
  });
  if (cells.length !== box.children.length || cells.some((cell, at) => cell !== box.children[at])) {
    box.replaceChildren(...cells);
  }
}

function drawTally(lane, name, tally) {
  const parts = Object.keys(SAYS).filter((state) => tally[state] && state !== "missed").map((state) => `${tally[state]} ${SAYS[state]}`);
  const text = parts.join(" · ");
  put(page("[data-tally]", lane), text);
  const label = `${name}: ${parts.join(", ") || "no orders yet"}`;
  const box = page("[data-cells]", lane);
  if (box.getAttribute("aria-label") !== label) box.setAttribute("aria-label", label);
}

function drawStage(lane, { workers, isTarget, isBroken }) {
  const list = page("[data-workers]", lane);
  const items = workers.length ? workers.map((worker) => [worker.name, worker.state, `process ${worker.pid}`]) : [["no worker", "none", ""]];
  const key = JSON.stringify([items, isTarget]);
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...items.map(([name, state, title]) => {
      const item = document.createElement("li");
      item.dataset.worker = state;
      item.title = title;
      item.textContent = ["ready", "none"].includes(state) ? name : `${name} ${state}`;
      return item;
    }));
    if (isTarget) {
      const item = document.createElement("li");
      item.dataset.worker = "target";
      item.textContent = "one dies in its next task";
      list.append(item);
    }
  }
  const going = workers.filter((worker) => worker.state !== "stopping").length;
  for (const button of pages('[data-when="workers"]', lane)) allow(button, going > 0, "The group has no worker.");
  allow(page('[data-when="room"]', lane), going < 3, "Three workers are the most.");
  const button = page("[data-broken]", lane);
  button.setAttribute("aria-checked", String(isBroken));
  button.form.action = isBroken ? button.form.dataset.mend : button.form.dataset.break;
  lane.classList.toggle("broken", isBroken);
}

function drawLatest(orders) {
  if (!orders.length) return;
  const body = page("[data-latest]");
  const known = new Map([...body.children].map((row) => [row.dataset.order, row]));
  body.replaceChildren(...orders.map((order) => {
    const key = JSON.stringify(order);
    const row = known.get(String(order.id));
    return row?.dataset.key === key ? row : latestRow(order, key);
  }));
}

function latestRow(order, key) {
  const row = document.createElement("tr");
  row.dataset.order = order.id;
  row.dataset.key = key;
  const head = document.createElement("th");
  head.scope = "row";
  const product = document.createElement("span");
  product.textContent = order.product;
  head.append(`${order.id} `, product);
  row.append(head);
  for (const lane of pages("[data-group]")) {
    const { state, tries, error } = order.steps[lane.dataset.group];
    const cell = document.createElement("td");
    const mark = document.createElement("i");
    mark.className = "cell";
    mark.dataset.state = state;
    mark.ariaHidden = "true";
    const text = document.createElement("span");
    text.textContent = words(state, tries);
    if (error) text.title = error;
    cell.append(mark, text);
    row.append(cell);
  }
  return row;
}

function words(state, tries) {
  return tries > 1 ? `${SAYS[state]}, try ${tries}` : SAYS[state];
}

function put(element, text) {
  if (element && element.textContent !== String(text)) element.textContent = text;
}

// Not `disabled`: a button that has the keyboard's focus would lose it.
function allow(button, isAllowed, why) {
  button.setAttribute("aria-disabled", String(!isAllowed));
  button.dataset.why = why;
}

function pulse(lane) {
  lane.classList.remove("pulse");
  void lane.offsetWidth; // starts the animation again
  lane.classList.add("pulse");
}
