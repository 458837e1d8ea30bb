// Keys: what they do is told by `?`, and `.` opens a list of everything that can be gone to or done from here. No request, no library.
(() => {
  const places = { o: "/", r: "/runs", s: "/sweeps", p: "/pipelines", q: "/queue", c: "/clusters", d: "/datasets", m: "/models", e: "/endpoints", t: "/settings" };
  const told = [["/", "search"], ["j k", "next and previous row"], ["x", "tick the row"], [".", "go to or do anything on this page, by its name"], ["?", "this list"]];
  const inProject = (path) => {
    const address = new URL(path, location.href);
    const project = new URLSearchParams(location.search).get("project");
    if (project) address.searchParams.set("project", project);
    return address.href;
  };
  const element = (name, text, more) => Object.assign(document.createElement(name), { textContent: text, ...more });
  const opened = (title) => {
    const dialog = element("dialog", "", { className: "ms-dialog ms-keys" });
    dialog.setAttribute("aria-label", title);
    dialog.addEventListener("close", () => dialog.remove());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    document.body.append(dialog);
    return dialog;
  };
  const help = () => {
    const dialog = opened("Keys");
    const list = element("dl", "", { className: "ms-kv" });
    const names = new Map([...document.querySelectorAll(".ms-nav a")].map((one) => [new URL(one.href).pathname, one.textContent]));
    const pages = Object.entries(places).map(([key, path]) => [`g ${key}`, names.get(path) || path]);
    for (const [keys, words] of [...told, ...pages]) {
      const term = element("dt", "");
      term.append(...keys.split(" ").flatMap((key) => [element("kbd", key), " "]));
      list.append(term, element("dd", words));
    }
    dialog.append(element("h2", "Keys", { className: "ms-question" }), list);
    const close = element("button", "Close", { className: "ms-btn" });
    close.addEventListener("click", () => dialog.close());
    dialog.append(close);
    dialog.showModal();
  };
  const all = () => {
    const found = [];
    for (const one of document.querySelectorAll(".ms-nav a")) found.push({ words: one.textContent, kind: "page", act: () => one.click() });
    for (const one of document.querySelectorAll(".ms-main button, .ms-main .ms-btn")) {
      const words = (one.getAttribute("aria-label") || one.textContent).trim();
      if (words && !one.disabled && one.offsetParent) found.push({ words, kind: "act", act: () => one.click() });
    }
    for (const one of document.querySelectorAll(".ms-main a[href]:not(.ms-btn)")) {
      const words = one.textContent.trim();
      if (words && one.offsetParent) found.push({ words, kind: new URL(one.href).pathname, act: () => one.click() });
    }
    const seen = new Set();
    return found.filter((one) => !seen.has(one.kind + one.words) && seen.add(one.kind + one.words));
  };
  const palette = () => {
    const known = all();
    const dialog = opened("Go to or do");
    const field = element("input", "", { className: "ms-field", type: "text", placeholder: "A page, a button, a name on this page, or runs to search for" });
    const list = element("ul", "", { className: "ms-choices", id: "ms-choices" });
    for (const [name, value] of [["aria-label", "Go to or do"], ["role", "combobox"], ["aria-controls", "ms-choices"], ["aria-expanded", "true"], ["autocomplete", "off"]]) field.setAttribute(name, value);
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Choices");
    let shown = [], at = 0;
    const mark = () => [...list.children].forEach((one, place) => {
      one.setAttribute("aria-selected", String(place === at));
      if (place === at) { one.scrollIntoView({ block: "nearest" }); field.setAttribute("aria-activedescendant", one.id); }
    });
    const choose = (one) => { dialog.close(); one.act(); };
    const draw = () => {
      const asked = field.value.trim().toLowerCase();
      shown = known.filter((one) => asked.split(/\s+/).every((word) => one.words.toLowerCase().includes(word))).slice(0, 50);
      if (asked) shown.push({ words: `Runs with “${field.value.trim()}”`, kind: "search", act: () => {
        const address = new URL(inProject("/runs"));
        address.searchParams.set("q", field.value.trim());
        location.href = address.href;
      } });
      at = 0;
      list.replaceChildren(...shown.map((one, place) => {
        const line = element("li", one.words, { id: `ms-choice-${place}` });
        line.setAttribute("role", "option");
        line.append(element("span", one.kind, { className: "ms-soft" }));
        line.addEventListener("click", () => choose(one));
        return line;
      }));
      mark();
    };
    field.addEventListener("input", draw);
    field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        at = Math.max(0, Math.min(shown.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)));
        mark();
      } else if (event.key === "Enter" && shown[at]) {
        event.preventDefault();
        choose(shown[at]);
      }
    });
    dialog.append(field, list);
    draw();
    dialog.showModal();
    field.focus();
  };
  let isGoing = false;
  document.addEventListener("keydown", (event) => {
    const typed = event.target.closest("input, textarea, select, [contenteditable], dialog");
    if (typed || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isGoing && places[event.key]) location.href = inProject(places[event.key]);
    isGoing = event.key === "g";
    if (event.key === "/") {
      const search = document.querySelector("input[type=search]");
      if (search) { event.preventDefault(); search.focus(); }
    }
    if (event.key === "j" || event.key === "k") {
      const links = [...document.querySelectorAll("tbody td:first-child a")];
      const at = links.indexOf(document.activeElement) + (event.key === "j" ? 1 : -1);
      if (links[at]) links[at].focus();
    }
    if (event.key === "x") document.activeElement?.closest("tr")?.querySelector(".ms-tick")?.click();
    if (event.key === "?") help();
    if (event.key === ".") { event.preventDefault(); palette(); }
  });
  document.addEventListener("click", (event) => { if (event.target.closest("[data-keys]")) help(); });
})();
