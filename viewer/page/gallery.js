// The gallery: all pictures of a folder, what the run was, and the way into a flight and back.
"use strict";

/**
 * @typedef {object} Entry a picture in the gallery
 * @property {string} id
 * @property {string} label
 * @property {string} status pending, started, done or failed
 * @property {string} failure empty where there is none
 * @property {number} group the same for spots of one picture
 * @property {number} factor of its deepest state; 0 where there is none
 * @property {string} made how that came about
 * @property {string} thumb file of a small copy of its first and its deepest state; empty where there is none
 * @typedef {object} Folder
 * @property {string} state of the run, as a sentence
 * @property {Law} law
 * @property {Entry[]} pictures
 * @property {[string, string][]} settings
 * @property {[string, string][]} unreadable label and reason
 * @property {boolean} alone there is no gallery: this is one picture, sent by somebody
 */

const CARDS = 300; // put into the page at once; more as they are scrolled to

/** @param {string} id @returns {unknown} */
function embedded(id) {
  const holder = document.getElementById(id);
  return holder ? JSON.parse(holder.textContent ?? "null") : null;
}

/** @type {Map<string, (route: Route) => void>} */
const awaited = new Map();

/** Called by the files of page/pictures/. @param {Route} route */
function takePicture(route) {
  awaited.get(route.id)?.(route);
  awaited.delete(route.id);
}

/** Return what is known of a picture. @param {string} id @returns {Promise<Route>} */
function loadPicture(id) {
  const inside = embedded(`picture-${id}`);
  if (inside) return Promise.resolve(/** @type {Route} */ (inside));
  return new Promise((resolve, reject) => {
    awaited.set(id, resolve);
    const script = document.createElement("script"); // a page on a disk may not fetch, but it may do this
    script.src = `page/pictures/${id}.js`;
    script.addEventListener("load", () => script.remove());
    script.addEventListener("error", () => reject(new Error("its file in page/pictures/ is gone")));
    document.head.append(script);
  });
}

class Gallery {
  /** @param {Folder} folder */
  constructor(folder) {
    this.folder = folder;
    this.flight = new Flight(folder.law, (route) => this.name(route.id));
    this.cards = element("cards", HTMLElement);
    this.more = element("more", HTMLElement);
    this.search = element("search", HTMLInputElement);
    this.byId = new Map(folder.pictures.map((entry) => [entry.id, entry]));
    this.opened = "";
    this.problem = element("problem", HTMLElement);
    const alone = folder.alone || new Set(folder.pictures.map((entry) => entry.group)).size === 1;
    element("back", HTMLElement).hidden = folder.alone;
    for (const id of ["previous", "next"]) element(id, HTMLElement).hidden = alone;
    element("run-state", HTMLElement).textContent = folder.state;
    this.list("settings", folder.settings);
    const failed = folder.pictures.filter((entry) => entry.failure);
    this.list("failures", [
      ...failed.map((entry) => /** @type {[string, string]} */ ([entry.label, entry.failure])),
      ...folder.unreadable,
    ]);
    this.fill();
    this.search.hidden = folder.pictures.length < 2;
    this.search.addEventListener("input", () => this.fill());
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.addCards(), {
      rootMargin: "1500px",
    }).observe(this.more);
    for (const [button, by] of /** @type {[string, number][]} */ ([
      ["previous", -1],
      ["next", 1],
    ])) {
      element(button, HTMLButtonElement).addEventListener("click", () => this.go(by));
    }
    window.addEventListener("hashchange", () => this.follow());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.opened && !folder.alone) location.hash = "";
    });
    const first = folder.pictures.find((entry) => entry.factor);
    if (alone && first && !location.hash) history.replaceState(null, "", `#${first.id}`);
    this.follow();
  }

  /** @param {string} id of a details element @param {[string, string][]} rows */
  list(id, rows) {
    const box = element(id, HTMLElement);
    box.hidden = !rows.length;
    const terms = rows.flatMap(([name, value]) => [make("dt", name), make("dd", value)]);
    box.querySelector("dl")?.replaceChildren(...terms);
  }

  /** Lay the cards out anew. */
  fill() {
    const wanted = this.search.value.toLowerCase();
    this.shown = this.folder.pictures.filter((entry) => entry.label.toLowerCase().includes(wanted));
    this.cards.replaceChildren();
    element("none", HTMLElement).hidden = this.shown.length > 0;
    this.addCards();
  }

  addCards() {
    const shown = this.shown ?? [];
    const from = this.cards.children.length;
    this.cards.append(...shown.slice(from, from + CARDS).map((entry) => this.card(entry)));
    this.more.hidden = this.cards.children.length >= shown.length;
  }

  /** @param {Entry} entry */
  card(entry) {
    const card = document.createElement("li");
    const ready = entry.factor > 0;
    const inside = document.createElement(ready ? "a" : "div");
    if (inside instanceof HTMLAnchorElement) inside.href = `#${entry.id}`;
    if (entry.thumb) {
      const picture = document.createElement("img");
      picture.loading = "lazy";
      picture.decoding = "async";
      picture.src = entry.thumb;
      picture.alt = "";
      inside.append(picture);
    } else {
      inside.append(make("div", "", "empty"));
    }
    inside.append(make("span", entry.label, "label"));
    const line = make("span", "", "line");
    if (entry.factor) line.append(make("b", times(entry.factor)), " ", make("span", entry.made, `made ${entry.made}`));
    if (entry.status !== "done") line.append(" ", make("span", entry.status, `status ${entry.status}`));
    inside.append(line);
    card.append(inside);
    return card;
  }

  /** To the picture before or after, of those that are shown. @param {number} by */
  go(by) {
    const ready = (this.shown ?? []).filter((entry) => entry.factor);
    const at = ready.findIndex((entry) => entry.id === this.opened);
    const from = at < 0 && by < 0 ? 0 : at; // one that the search does not list: the first, or the last
    const next = ready[(from + by + ready.length) % ready.length];
    if (next) location.hash = next.id;
  }

  /** Show what the address says. */
  async follow() {
    const id = location.hash.slice(1);
    const entry = this.byId.get(id);
    const flown = this.opened;
    this.opened = entry && entry.factor ? id : "";
    this.problem.textContent = "";
    if (!entry || !this.opened) {
      this.flight.close();
      this.turn("gallery");
      const card = flown && this.cards.querySelector(`a[href="#${flown}"]`);
      if (card instanceof HTMLElement) card.focus();
      return;
    }
    const group = this.folder.pictures.filter((one) => one.group === entry.group && one.factor);
    try {
      const routes = await Promise.all(group.map((one) => loadPicture(one.id)));
      if (this.opened !== id) return; // somebody was quicker than the disk
      this.turn("flight");
      this.flight.open(routes, routes[group.indexOf(entry)]);
      element("stage", HTMLElement).focus({ preventScroll: true });
      window.scrollTo(0, 0);
    } catch (error) {
      if (this.opened !== id) return;
      this.opened = "";
      this.flight.close();
      this.turn("gallery");
      history.replaceState(null, "", "#"); // so that the same card can be tried again
      this.problem.textContent = `${entry.label}: ${/** @type {Error} */ (error).message}`;
    }
  }

  /** Give the address and the title to a spot that was flown into. @param {string} id */
  name(id) {
    this.opened = id;
    history.replaceState(null, "", `#${id}`);
    this.turn("flight");
  }

  /** @param {string} to gallery or flight */
  turn(to) {
    element("gallery", HTMLElement).hidden = to !== "gallery";
    element("flight", HTMLElement).hidden = to !== "flight";
    const entry = this.byId.get(this.opened);
    document.title = entry ? `${entry.label} - Chain-of-Zoom` : "Chain-of-Zoom";
  }
}

const folder = /** @type {Folder} */ (embedded("folder"));
const gallery = new Gallery(folder);
