// Times that stay true, buttons in markup, copying, and whether anybody looks. No request, no library.
(() => {
  const ago = (seconds) => {
    const s = Math.max(0, Math.floor(seconds));
    if (s < 1) return "now";
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} m`;
    if (s < 86400) return `${Math.floor(s / 3600)} h`;
    return `${Math.floor(s / 86400)} d`;
  };
  const spent = (seconds) => {
    const s = Math.max(0, Math.floor(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} m ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  };
  setInterval(() => {
    if (document.hidden) return;
    for (const one of document.querySelectorAll("time[datetime]")) {
      const past = (Date.now() - Date.parse(one.dateTime)) / 1000;
      const words = one.classList.contains("ms-since") ? spent(past) : ago(past);
      const text = one.classList.contains("ms-since") || words === "now" ? words : `${words} ago`;
      if (one.textContent !== text) one.textContent = text;
    }
  }, 1000);
  document.addEventListener("visibilitychange", () => {
    if (typeof emitEvent === "function") emitEvent("ms-visible", !document.hidden);
  });
  document.addEventListener("click", (event) => {
    const act = event.target.closest("[data-act]");
    if (act && act.dataset.act === "unzoom") zoom(null, null);
    else if (act) emitEvent("ms-act", { act: act.dataset.act, arg: act.dataset.arg || "" });
    const copied = event.target.closest("[data-copy]");
    if (copied && navigator.clipboard) {
      navigator.clipboard.writeText(copied.dataset.copy);
      copied.classList.add("is-copied");
      setTimeout(() => copied.classList.remove("is-copied"), 900);
    }
  });
  // what is ticked is in the address, and stays when the filter is changed
  window.msPicked = (ids) => {
    const address = new URL(location.href);
    if (ids.length) address.searchParams.set("picked", ids.join(","));
    else address.searchParams.delete("picked");
    history.replaceState(null, "", address);
    for (const tick of document.querySelectorAll(".ms-tick")) tick.checked = ids.includes(tick.dataset.arg);
  };
  document.addEventListener("submit", (event) => {
    const picked = new URLSearchParams(location.search).get("picked");
    if (!picked || !event.target.matches('form[role=search]')) return;
    const field = Object.assign(document.createElement("input"), { type: "hidden", name: "picked", value: picked });
    event.target.append(field);
  });
  // what scrolls sideways can be reached by keys, and shows on which side there is more
  const reach = () => {
    for (const one of document.querySelectorAll(".ms-scroll")) {
      if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
      else one.removeAttribute("tabindex");
      one.classList.toggle("is-more-left", one.scrollLeft > 1);
      one.classList.toggle("is-more-right", one.scrollLeft + one.clientWidth < one.scrollWidth - 1);
    }
  };
  addEventListener("resize", reach);
  addEventListener("scroll", (event) => event.target.classList?.contains("ms-scroll") && reach(), true);
  // a list grows before its end is reached
  let grown = "";
  addEventListener("scroll", () => {
    const more = document.querySelector(".ms-more");
    if (!more || more.dataset.arg === grown || more.getBoundingClientRect().top > innerHeight + 600) return;
    grown = more.dataset.arg;
    more.click();
  }, { passive: true });
  // a block that is drawn again takes the focus with it: give it back to the same link, button or tick
  let held = null;
  const key = (one) => one.dataset.act ? `${one.dataset.act} ${one.dataset.arg}` : one.getAttribute("href");
  document.addEventListener("focusin", (event) => { held = event.target.closest("a[href], [data-act]"); });
  // a fold that is drawn again stays as it was left
  const unfolded = new Set();
  document.addEventListener("toggle", (event) => {
    const name = event.target.dataset?.fold;
    if (name) unfolded[event.target.open ? "add" : "delete"](name);
  }, true);
  const unfold = () => {
    for (const one of document.querySelectorAll("details[data-fold]:not([open])")) one.open = unfolded.has(one.dataset.fold);
  };
  new MutationObserver(() => {
    reach();
    unfold();
    if (!held || held.isConnected || document.activeElement !== document.body) return;
    const same = [...document.querySelectorAll(held.dataset.act ? "[data-act]" : "a[href]")].find((one) => key(one) === key(held));
    held = null;
    if (same) same.focus({ preventScroll: true });
  }).observe(document.documentElement, { childList: true, subtree: true });
  // a chart is dragged over to see a part of it; the server sends finer points
  window.msBrush = (chart) => {
    if (!chart || chart.msHasBrush) return;
    chart.msHasBrush = true;
    chart.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: "lineX", brushMode: "single" } });
  };
  const zoom = (from, to) => {
    const address = new URL(location.href);
    for (const [name, value] of [["from", from], ["to", to]]) {
      if (value === null) address.searchParams.delete(name);
      else address.searchParams.set(name, value);
    }
    history.replaceState(null, "", address);
    emitEvent("ms-zoom", { from, to });
  };
  window.msZoomed = (chart, event) => {
    const range = event.areas && event.areas[0] && event.areas[0].coordRange;
    chart.dispatchAction({ type: "brush", areas: [] });
    if (!range || !(range[1] > range[0])) return;
    const digits = Math.max(0, Math.min(12, 3 - Math.floor(Math.log10(range[1] - range[0]))));
    zoom(Number(range[0].toFixed(digits)), Number(range[1].toFixed(digits)));
  };
  document.addEventListener("dblclick", (event) => { if (event.target.closest(".ms-chart")) zoom(null, null); });
  window.msTry = async (url, name) => {
    const body = document.getElementById(`${name}-body`).value;
    const out = document.getElementById(`${name}-answer`);
    const began = performance.now();
    out.textContent = "Asking…";
    try {
      const answer = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const took = performance.now() - began;
      const text = await answer.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* it is no JSON: shown as it is */ }
      out.textContent = `${answer.status} after ${took.toFixed(1)} ms\n${shown.slice(0, 20000)}`;
    } catch (wrong) {
      out.textContent = `No answer: ${wrong.message}`;
    }
  };
  document.addEventListener("click", (event) => {
    const asked = event.target.closest("[data-try]");
    if (asked) window.msTry(asked.dataset.try, asked.dataset.name);
  });
})();
