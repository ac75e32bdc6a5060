// The whole picture in small: where the camera is, and the spots that can be flown into.
"use strict";

/** @param {HTMLElement} part @param {Rectangle} place @param {[number, number]} size of the picture */
function lay(part, place, size) {
  part.style.left = `${(100 * place[0]) / size[0]}%`;
  part.style.top = `${(100 * place[1]) / size[1]}%`;
  part.style.width = `${(100 * place[2]) / size[0]}%`;
  part.style.height = `${(100 * place[3]) / size[1]}%`;
}

/** The picture is laid out of the states 0 of its spots: the file itself may be elsewhere, or gone. */
class SpotMap {
  /** @param {HTMLElement} box @param {(route: Route) => void} chosen called when somebody wants into a spot */
  constructor(box, chosen) {
    this.box = box;
    this.chosen = chosen;
    this.seen = make("div", "", "seen");
    /** @type {Map<string, HTMLElement>} */
    this.buttons = new Map();
  }

  /** @param {Route[]} routes */
  show(routes) {
    const { size } = routes[0];
    this.box.style.setProperty("--aspect", String(clamp(size[0] / size[1], 0.01, 100)));
    this.buttons.clear();
    /** @type {Map<string, HTMLElement>} */
    const pictures = new Map(); // spots near each other share one
    for (const route of routes) {
      const { view, src } = route.layers[0];
      if (pictures.has(String(view))) continue;
      const picture = document.createElement("img");
      picture.src = src;
      picture.alt = "";
      lay(picture, view, size);
      pictures.set(String(view), picture);
    }
    if (routes.length > 1) {
      routes.forEach((route, number) => this.buttons.set(route.id, this.button(route, number + 1)));
    }
    this.box.replaceChildren(...pictures.values(), this.seen, ...this.buttons.values());
  }

  /** @param {Route} route @param {number} number */
  button(route, number) {
    const button = make("button", String(number));
    button.setAttribute("aria-label", `fly into spot ${route.spot}`);
    button.title = route.spot;
    const [left, top, width, height] = route.layers[route.layers.length - 1].stop;
    lay(button, [left + width / 2, top + height / 2, 0, 0], route.size);
    button.style.width = button.style.height = "";
    for (const side of /** @type {const} */ (["left", "top"])) {
      button.style[side] = `clamp(0.8rem, ${button.style[side]}, calc(100% - 0.8rem))`; // whole, also in a corner
    }
    button.addEventListener("click", () => this.chosen(route));
    return button;
  }

  /** @param {Route} current @param {Rectangle} camera */
  update(current, camera) {
    lay(this.seen, camera, current.size);
    for (const [id, button] of this.buttons) button.setAttribute("aria-pressed", String(id === current.id));
  }
}
