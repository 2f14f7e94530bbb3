// Keeps the page current: the manager sends the rows and regions that have changed, as HTML whose texts it has escaped.
// Without this script the page shows the state at the time when it was loaded, and every filter is a link or a form.
"use strict";

(() => {
  const AGAIN_MS = 5000;
  const TYPING_MS = 250;
  const live = document.getElementById("live");
  const template = document.createElement("template");
  let source = null;
  let timer = 0;
  let waiting = "";
  let behindMs = Date.parse(document.body.dataset.now) - Date.now();

  // --- ages

  const UNITS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

  // The same as `duration` in controller/api/clock.py.
  function duration(seconds) {
    const left = Math.max(0, Math.trunc(seconds));
    for (const [place, [size, unit]] of UNITS.entries()) {
      if (left >= size) {
        const [small, smaller] = UNITS[place + 1] ?? [1, "s"];
        const rest = left % size;
        const part = rest >= small && (unit !== "m" || left < 600) ? `${Math.trunc(rest / small)}${smaller}` : "";
        return unit === "s" ? `${left}s` : `${Math.trunc(left / size)}${unit}${part}`;
      }
    }
    return "0s";
  }

  function tick() {
    const now = Date.now() + behindMs;
    for (const time of document.querySelectorAll("time:not([data-fixed])")) {
      const age = duration((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== age) {
        time.textContent = age;
      }
    }
  }

  // --- changes

  function element(html) {
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  function put(region, html) {
    const old = document.getElementById(region);
    const fresh = element(html);
    if (!old || old.dataset.v === fresh.dataset.v) {
      return;
    }
    if (region === "filters" && old.contains(document.activeElement)) {
      waiting = html; // somebody uses it
      return;
    }
    old.replaceWith(fresh);
  }

  document.addEventListener("focusout", () => {
    const html = waiting;
    waiting = "";
    if (html) {
      setTimeout(() => put("filters", html));
    }
  });

  function order(body, wanted, html, first) {
    const rows = new Map([...body.children].map((row) => [row.dataset.key, row]));
    let place = body.firstElementChild;
    for (const [key, version] of wanted) {
      let row = rows.get(key);
      rows.delete(key);
      if (row?.dataset.v !== version && html[key]) {
        const fresh = element(html[key]);
        if (row === place) {
          place = place?.nextElementSibling ?? null;
        }
        row?.remove();
        row = fresh;
        row.classList.toggle("changed", !first);
      }
      if (row && row === place) {
        place = place.nextElementSibling;
      } else if (row) {
        body.insertBefore(row, place);
      }
    }
    rows.forEach((row) => row.remove());
  }

  function show(message, first) {
    const focus = document.activeElement?.dataset?.focus;
    behindMs = Date.parse(message.now) - Date.now();
    document.title = message.title;
    for (const [region, html] of Object.entries(message.regions)) {
      put(region, html);
    }
    for (const [table, told] of Object.entries(message.tables)) {
      order(document.getElementById(table), told.order, told.rows, first);
    }
    if (focus && document.activeElement?.dataset?.focus !== focus) {
      document.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
    }
    tick();
  }

  // --- the connection

  function say(text, state) {
    if (live.textContent !== text) {
      live.textContent = text;
    }
    live.className = state;
  }

  function lost() {
    if (live.className !== "lost") {
      const now = new Date(Date.now() + behindMs).toISOString();
      say(`Not live: the connection is lost. Shown is the state at ${now.slice(11, 19)} UTC.`, "lost");
    }
  }

  function close() {
    source?.close();
    source = null;
    clearTimeout(timer);
  }

  function open() {
    close();
    let first = true;
    source = new EventSource(`events${location.search}`);
    source.addEventListener("view", (event) => {
      say("Live", "live");
      show(JSON.parse(event.data), first);
      first = false;
    });
    source.addEventListener("open", () => {
      first = true;
    });
    source.addEventListener("error", () => {
      lost();
      if (source?.readyState === EventSource.CLOSED) {
        timer = setTimeout(open, AGAIN_MS);
      }
    });
  }

  // --- what a person chooses

  function go(address, push) {
    if (push) {
      history.pushState(null, "", address);
    } else {
      history.replaceState(null, "", address);
    }
    open();
  }

  function chosen(form) {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    if (query.get("sort") === form.elements.sort.options[0].value) {
      query.delete("sort");
    }
    return query.size ? `./?${query}` : "./";
  }

  // A form that somebody uses is not replaced, so it says itself what is chosen.
  function fill() {
    const query = new URLSearchParams(location.search);
    for (const field of document.querySelectorAll("#filters input, #filters select")) {
      const value = query.get(field.name) ?? "";
      if (field.type === "checkbox") {
        field.checked = value !== "";
      } else if (field.name === "sort") {
        field.value = value || field.options[0].value;
      } else {
        field.value = value;
      }
    }
  }

  document.addEventListener("submit", (event) => {
    event.preventDefault();
    go(chosen(event.target), true);
  });

  let typing = 0;
  document.addEventListener("input", (event) => {
    const form = event.target.form;
    if (form) {
      clearTimeout(typing);
      typing = setTimeout(() => go(chosen(form), event.target.type !== "search"), TYPING_MS);
    }
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='./']");
    if (link && event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      go(link.getAttribute("href"), true);
      fill();
    }
  });

  addEventListener("popstate", () => {
    fill();
    open();
  });

  // A browser has at most six connections to one address; a page that nobody sees needs none.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && open());

  setInterval(tick, 1000);
  if (!document.hidden) {
    open();
  }
})();
