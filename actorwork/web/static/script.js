// The dashboard's script: pages that follow, actions with their questions, local times, copying, a few keys.
// Without it every page and every action still works.
"use strict";
(() => {
  const base = document.body.dataset.base;
  const main = document.getElementById("main");
  const live = document.getElementById("live");
  const said = document.getElementById("said");
  const ask = document.getElementById("ask");

  // ---- times, as the clock of the reader shows them ----

  const clock = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  const today = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

  function localize(root) {
    const day = new Date().toDateString();
    for (const one of root.querySelectorAll("time[datetime]")) {
      const at = new Date(one.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      one.textContent = (at.toDateString() === day ? today : clock).format(at);
      one.title = `${full.format(at)} (${one.dateTime})`;
    }
  }

  // ---- a page becomes another one, with what the reader does in it left alone ----

  const kept = new Set(["open", "value", "checked", "style"]); // The style is the size that a reader has given a field.
  const keptInForms = new Set(["open", "style"]);

  // Not `one.id`: of a form that has a field of this name, it is the field.
  function named(one) {
    return one.dataset?.key || one.getAttribute?.("id") || "";
  }

  function same(one, other) {
    return one.nodeType === other.nodeType && one.nodeName === other.nodeName && named(one) === named(other);
  }

  function following(node) {
    let count = 0;
    for (let at = node; at; at = at.nextSibling) count += 1;
    return count;
  }

  // ---- forms that change what the page shows (data-edits): as a whole they are of one moment ----
  //
  // A hidden field of each names the version that the form shows, so that the server refuses changes of an older one. While
  // a reader uses such a form, updates leave all of it alone, that field included; otherwise they replace all of it.

  function isChanged(one) {
    if (one.type === "checkbox") return one.checked !== one.defaultChecked;
    if (one.nodeName !== "SELECT") return one.value !== one.defaultValue;
    return one.selectedIndex !== Math.max(0, [...one.options].findIndex((option) => option.defaultSelected));
  }

  function isInUse(form) {
    return [...form.elements].some((one) =>
      one.type !== "hidden" && one.nodeName !== "BUTTON" && (one === document.activeElement || isChanged(one)));
  }

  // What it was made of, whatever a reader has done to it since.
  function madeOf(form) {
    return JSON.stringify([...form.elements].map((one) => [
      one.name, one.defaultValue, one.defaultChecked, one.options && [...one.options].map((option) => option.defaultSelected),
    ]));
  }

  let latest = "";
  let isBehind = false;

  function isLeft(form, fresh) {
    const isNew = madeOf(form) !== madeOf(fresh);
    if (!isInUse(form)) {
      if (isNew) form.reset(); // A field that was changed, and changed back, follows again.
      return false;
    }
    isBehind ||= isNew;
    form.querySelector("[data-behind]").hidden = !isNew;
    return true;
  }

  // A form that its reader leaves unchanged catches up.
  main.addEventListener("focusout", () => setTimeout(() => { if (isBehind) show(latest); }));
  main.addEventListener("click", (event) => {
    const button = event.target.closest("[data-behind] button");
    if (!button) return;
    button.form.reset();
    main.focus({ preventScroll: true });
    show(latest);
  });

  function become(old, fresh, keeping = kept) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.dataset.keep !== undefined || (old === document.activeElement && "value" in old && old.nodeName !== "BUTTON")) return;
    if (old.dataset.edits !== undefined) {
      if (isLeft(old, fresh)) return;
      keeping = keptInForms;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !keeping.has(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value && !keeping.has(name)) old.setAttribute(name, value);
    }
    if (old.type === "hidden" && old.value !== fresh.value) old.value = fresh.value;
    const byKey = new Map();
    for (const child of old.children) if (child.dataset.key) byKey.set(child.dataset.key, child);
    let at = old.firstChild;
    const coming = [...fresh.childNodes];
    const staying = new Set(coming.map((next) => next.dataset?.key).filter((key) => byKey.has(key)));
    for (const [number, next] of coming.entries()) {
      const known = next.dataset?.key && byKey.get(next.dataset.key);
      if (known) {
        // A node that is moved loses the focus. If all nodes before it have gone, they are removed instead.
        let end = at;
        while (end && end !== known && !staying.has(end.dataset?.key)) end = end.nextSibling;
        while (end === known && at !== known) {
          const gone = at;
          at = at.nextSibling;
          gone.remove();
        }
      }
      if (known && known !== at) old.insertBefore(known, at);
      else if (!known && at && !same(at, next) && following(at) > coming.length - number) {
        // More is here than comes: what is before the one that stays has gone, and that one is not made anew.
        let stays = at;
        while (stays && !same(stays, next)) stays = stays.nextSibling;
        while (stays && at !== stays) {
          const gone = at;
          at = at.nextSibling;
          gone.remove();
        }
      }
      const here = known || at;
      if (here && same(here, next)) {
        become(here, next, keeping);
        at = here.nextSibling;
      } else {
        old.insertBefore(next, at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  function show(html) {
    latest = html;
    isBehind = false;
    const at = document.activeElement;
    const fresh = new DOMParser().parseFromString(`<main>${html.trim()}</main>`, "text/html").querySelector("main");
    localize(fresh);
    const shell = main.cloneNode(false);
    shell.append(...fresh.childNodes);
    become(main, shell);
    if (document.activeElement !== at && at.isConnected) at.focus({ preventScroll: true });
  }

  async function again() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const whole = new DOMParser().parseFromString(await answer.text(), "text/html");
    show(whole.getElementById("main").innerHTML);
  }

  // ---- following: while the page is visible, and only then ----

  let stream = null;

  function state(name, text) {
    live.dataset.state = name;
    live.textContent = text;
  }

  // On top of a page that can no longer be drawn, such as that of a run which was deleted; the next update removes it.
  function stale(text) {
    const line = document.getElementById("stale") || document.createElement("p");
    line.id = "stale";
    line.className = "why bad";
    const words = document.createElement("span");
    words.textContent = `${text.replace(/[.!?]$/, "")}. This page shows what was known before.`;
    line.replaceChildren(words);
    main.prepend(line);
  }

  function follow() {
    const page = document.body.dataset.follow;
    if (!page || stream || document.hidden) return;
    stream = new EventSource(`${base}/live?page=${encodeURIComponent(page)}`);
    stream.addEventListener("open", () => state("live", "Live"));
    stream.addEventListener("page", (event) => { state("live", "Live"); show(JSON.parse(event.data)); });
    stream.addEventListener("trouble", (event) => { state("trouble", "Not up to date"); stale(JSON.parse(event.data)); });
    stream.addEventListener("error", () => {
      state("trouble", "Connection lost");
      // A browser gives up after an answer that is no stream; the server may be back later.
      if (stream && stream.readyState === EventSource.CLOSED) {
        leave();
        setTimeout(follow, 5000);
      }
    });
  }

  function leave() {
    if (stream) stream.close();
    stream = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { leave(); state("paused", "Paused"); } else follow();
  });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", follow);

  // ---- actions: the server words the question, the reader answers it ----

  let silence = 0;

  function say(text, isBad, lasting = isBad ? 12000 : 5000) {
    const line = document.createElement("p");
    line.textContent = text.charAt(0).toUpperCase() + text.slice(1);
    if (isBad) line.className = "bad";
    said.replaceChildren(line);
    clearTimeout(silence);
    silence = setTimeout(() => said.replaceChildren(), lasting);
  }

  async function post(path, fields) {
    const answer = await fetch(`${base}/api${path}`, {
      method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(fields),
    });
    let facts = {};
    try { facts = await answer.json(); } catch { facts = { error: `the server answered ${answer.status}` }; }
    if (!answer.ok) throw new Error(facts.error || `the server answered ${answer.status}`);
    return facts;
  }

  // An action that takes longer than a second shows how far it is. This answer may come after that of the action.
  async function tell(mark, total) {
    said.dataset.of = mark;
    const answer = await fetch(`${base}/api/under-way?id=${encodeURIComponent(mark)}`).catch(() => null);
    const count = answer?.ok ? (await answer.json()).so_far : null;
    if (said.dataset.of !== mark) return;
    say(count && total ? `Under way: ${count.toLocaleString()} of ${total.toLocaleString()}` : "Under way …", false, 60000);
  }

  // No button of the form, whose first one the Enter key takes: a reason and Enter would cancel.
  const no = ask.querySelector("button[type=button]");
  no.addEventListener("click", () => ask.close("no"));

  function confirmed(facts) {
    return new Promise((resolve) => {
      ask.querySelector("h2").textContent = facts.question;
      const reason = ask.querySelector("input");
      const yes = ask.querySelector("button.main");
      reason.value = "";
      reason.required = facts.reason_required;
      yes.classList.toggle("grave", facts.is_grave);
      ask.returnValue = "";
      ask.showModal();
      (facts.is_grave ? no : yes).focus();
      ask.addEventListener("close", () => resolve(ask.returnValue === "yes" ? reason.value : null), { once: true });
    });
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    event.preventDefault();
    const fields = {};
    for (const [name, value] of new FormData(form, event.submitter)) {
      fields[name] = Object.hasOwn(fields, name) ? [fields[name], value].flat() : value;
    }
    const path = new URL(event.submitter?.getAttribute("formaction") || form.getAttribute("action"), location.href)
      .pathname.slice(base.length);
    const button = event.submitter;
    try {
      if (button) button.disabled = true;
      const asked = await post(path, { ...fields, dry_run: true });
      const reason = await confirmed(asked);
      if (reason === null) return;
      const mark = `${Date.now()}-${Math.random()}`;
      const waiting = setInterval(() => tell(mark, asked.how_many), 1000);
      const facts = await post(path, { ...fields, reason, under_way: mark }).finally(() => {
        clearInterval(waiting);
        said.dataset.of = "";
      });
      say(facts.done, facts.problems.length > 0);
      if (form.dataset.then) setTimeout(() => location.assign(base + form.dataset.then), 900);
      else { form.reset(); await again(); }
    } catch (error) {
      say(error.message, true);
    } finally {
      if (button) button.disabled = false;
      // A button that was off has lost the focus, and one that has gone takes it along: the next Tab goes on from here.
      if (document.activeElement === document.body) (button?.isConnected ? button : main).focus();
    }
  });

  // ---- copying, also where a browser has no clipboard for pages (plain http) ----

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    say("Copied");
  });

  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-all]")) return;
    for (const box of main.querySelectorAll(`input[name="${event.target.dataset.all}"]`)) box.checked = event.target.checked;
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    event.preventDefault();
    document.getElementById("find").focus();
  });

  // In a narrow window the names of the pages are a row of which a part is seen: it is to be the part with this page.
  const here = document.querySelector(".pages [aria-current]");
  const row = here && here.closest(".pages");
  if (row && row.scrollWidth > row.clientWidth) {
    const [part, whole] = [here.getBoundingClientRect(), row.getBoundingClientRect()];
    row.scrollLeft = part.left - whole.left - (whole.width - part.width) / 2;
  }

  document.getElementById("zone").textContent = clock.resolvedOptions().timeZone;
  localize(document);
  follow();
})();
