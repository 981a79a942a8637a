// Shows one request live. The address names it (#ID), so that a page that is loaded again follows it again.

const element = (id) => document.getElementById(id);
const DONE = new Set(["SUCCESS", "FAILURE", "REJECTED", "CANCELLED", "EXPIRED"]);
const MARK = { "passed": "passed", "failed": "failed", "too slow": "slow", "crashed": "crashed" };

const MOST_DOTS = 2000;

let stream = null;
let others = 0;

async function call(path, body) {
  const answer = await fetch(path, body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const found = await answer.json();
  if (answer.ok) return found;
  const detail = found.detail;
  throw new Error(typeof detail === "string" ? detail : detail.map((one) => one.msg).join("; "));
}

function make(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

// ---- one request ----

function follow(id) {
  stream?.close();
  stream = null;
  others = 0;
  element("verdicts").replaceChildren();
  element("left").hidden = true;
  element("left").querySelector("ul").replaceChildren();
  element("request").hidden = !id;
  if (!id) return;
  stream = new EventSource(`requests/${id}/events`);
  stream.addEventListener("progress", (event) => show(JSON.parse(event.data)));
  let judged = 0;
  stream.addEventListener("verdict", (event) => judge(JSON.parse(event.data), judged++));
  stream.addEventListener("error", () => {
    // The browser connects again by itself, unless there is no such request.
    element("note").textContent = stream.readyState === EventSource.CLOSED ? "There is no such request." : "Reconnecting …";
  });
}

function show(request) {
  const { status, summary } = request;
  const over = DONE.has(status);
  element("title").textContent = `Tests for ${request.package}`;
  element("status").textContent = status;
  element("status").className = `status ${status}`;
  element("note").textContent = request.note;
  element("cancel").hidden = over;
  element("stages").replaceChildren(...stages(request.stages, over));
  const { written, validated } = request;
  for (const name of ["tally", "legend"]) element(name).hidden = !written;
  if (written) dot(Math.min(written, MOST_DOTS) - 1);
  element("bar").max = written || 1;
  element("bar").value = validated;
  element("count").textContent = `${validated} of ${written} validated`;
  element("summary").hidden = !summary;
  if (summary) element("summary").replaceChildren(...numbers(summary));
  element("download").hidden = !summary?.saved;
  element("tests").href = `requests/${request.id}/tests`;
  if (over) {
    stream.close(); // Else the browser would connect again.
    list();
  }
}

function stages(all, over) {
  const now = over ? -1 : all.findIndex((stage) => !DONE.has(stage.status));
  return all.map((stage, index) => {
    const item = make("li", stage.name, index === now ? "now" : stage.status);
    item.append(make("small", index === now ? reported(stage) : stage.status.toLowerCase()));
    item.title = stage.note;
    return item;
  });
}

function reported({ done, total }) {
  return total ? `${done.toLocaleString()} of ${total.toLocaleString()}` : "in progress";
}

function numbers(summary) {
  return Object.entries(summary).map(([name, value]) => {
    const box = make("div");
    box.append(make("dd", value.toLocaleString()), make("dt", name === "functions" ? name : `tests ${name}`));
    return box;
  });
}

function dot(index) {
  const dots = element("verdicts");
  while (dots.children.length <= index) dots.append(make("span", "", "dot"));
  return dots.children[index];
}

function judge(verdict, index) {
  if (index < MOST_DOTS) {
    const mark = dot(index);
    mark.className = `dot ${MARK[verdict.judgement]}`;
    mark.title = `${verdict.name}: ${verdict.judgement} (${verdict.seconds.toFixed(1)} s, process ${verdict.worker})`;
  }
  if (verdict.judgement === "passed") return;
  others += 1;
  const left = element("left");
  left.hidden = false;
  left.querySelector("summary").textContent = others === 1 ? "1 does not pass" : `${others} do not pass`;
  const item = make("li");
  item.append(make("code", verdict.name), ` ${verdict.judgement}: ${verdict.detail}`);
  left.querySelector("ul").append(item);
}

// ---- all of them ----

async function list() {
  const requests = await call("requests");
  element("none").hidden = requests.length > 0;
  element("earlier").replaceChildren(...requests.map((request) => {
    const link = make("a");
    link.href = `#${request.id}`;
    const time = make("time", new Date(1000 * request.created).toLocaleTimeString([], { timeStyle: "short" }));
    link.append(make("b", request.package), make("span", request.status, `status ${request.status}`), time);
    const item = make("li");
    item.append(link);
    return item;
  }));
}

element("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const refused = element("refused");
  refused.hidden = true;
  try {
    const { id } = await call("requests", { package: element("package").value });
    location.hash = id;
    list();
  } catch (error) {
    refused.textContent = error.message;
    refused.hidden = false;
  }
});

element("cancel").addEventListener("click", async () => {
  try {
    await call(`requests/${location.hash.slice(1)}/cancel`, {});
  } catch (error) {
    element("note").textContent = error.message;
  }
});

addEventListener("hashchange", () => follow(location.hash.slice(1)));
follow(location.hash.slice(1));
list();
