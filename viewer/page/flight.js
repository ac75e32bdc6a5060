// The flight through one picture: where it is, what its stage shows, and what is said of the state that is seen.
"use strict";

/** @type {Record<string, string>} */
const MADE = {
  real: "the picture's own pixels, only resized",
  enlarged: "from the picture's own pixels",
  invented: "plausible, not true",
};

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${id}`);
  return found;
}

/** @param {string} tag @param {string} text @param {string} [kind] its class */
function make(tag, text, kind) {
  const made = document.createElement(tag);
  made.textContent = text; // never as HTML: names and prompts come from files
  if (kind) made.className = kind;
  return made;
}

/** @param {number} factor */
function times(factor) {
  return `${factor < 9.95 && !Number.isInteger(factor) ? factor.toFixed(1) : Math.round(factor)}x`;
}

/** Flies through one route at a time of those that share a picture. */
class Flight {
  /** @param {Law} law @param {(route: Route) => void} flownTo called when another spot is flown into */
  constructor(law, flownTo) {
    this.law = law;
    this.flownTo = flownTo;
    this.canvas = element("stage", HTMLCanvasElement);
    this.slider = element("depth", HTMLInputElement);
    this.play = element("play", HTMLButtonElement);
    this.handle = element("handle", HTMLElement);
    this.map = new SpotMap(element("map", HTMLElement), (route) => this.flyTo(route));
    /** @type {Route[]} */
    this.routes = [];
    /** @type {Route | undefined} */
    this.route = undefined; // of these, the one that is flown
    this.depth = 0;
    this.speed = 0; // while it plays, in steps a second
    this.offset = [0, 0]; // of the camera from its way, in widths and heights of what it sees
    this.split = 0.5;
    this.comparing = false;
    this.allPlain = false; // while the key is held
    this.outlining = false;
    this.said = "";
    this.drawing = 0;
    /** @type {{step: (milliseconds: number) => boolean, last: number} | null} */
    this.motion = null;
    new ResizeObserver(() => this.fit()).observe(element("stage-box", HTMLElement));
    this.steering = new Steering(this, this.canvas);
  }

  /** Show a picture. @param {Route[]} routes that share it @param {Route} route the one to fly */
  open(routes, route) {
    this.motion = null;
    this.routes = routes;
    this.route = route;
    this.scene = new Scene(this.canvas, routes, this.law, () => this.redraw());
    this.depth = 0;
    this.offset = [0, 0];
    this.allPlain = false;
    this.said = "";
    this.map.show(routes);
    this.show();
    this.fit();
    this.seek(0);
  }

  close() {
    this.motion = null;
    this.scene = undefined; // and with it the pictures
    this.tell();
  }

  /** Everything that only changes with the route. */
  show() {
    const route = this.current;
    element("name", HTMLElement).textContent = route.label;
    this.slider.max = String(this.last);
    const box = element("stage-box", HTMLElement);
    box.style.setProperty("--aspect", String(route.aspect[0] / route.aspect[1]));
    const comparable = route.layers.some((layer) => layer.plain);
    element("compare", HTMLButtonElement).hidden = !comparable;
    if (!comparable) this.compare(false);
    const track = route.layers.slice(1).map((layer) => make("span", "", layer.made));
    element("track", HTMLElement).replaceChildren(...track);
    const wordless = !route.layers.some(saidOf);
    element("table", HTMLElement).classList.toggle("wordless", wordless);
    const stops = route.layers.map((layer, number) => this.row(layer, number));
    element("states", HTMLElement).replaceChildren(...stops);
  }

  /** One line of the table of states. @param {Layer} layer @param {number} number */
  row(layer, number) {
    const row = document.createElement("tr");
    const button = make("button", times(layer.factor));
    button.setAttribute("aria-label", `fly to ${times(layer.factor)}`);
    button.addEventListener("click", () => this.glide(number));
    const head = document.createElement("th");
    head.scope = "row";
    head.append(button);
    const figure = (/** @type {number | null} */ value) => make("td", value === null ? "" : value.toFixed(1));
    row.append(head, make("td", layer.made, `made ${layer.made}`), make("td", saidOf(layer)));
    row.append(figure(layer.consistency), figure(layer.texture));
    return row;
  }

  get current() {
    if (!this.route) throw new Error("no picture is open");
    return this.route;
  }

  get last() {
    return this.current.layers.length - 1;
  }

  /** What is seen: the way at this depth, moved by the offset. @returns {Rectangle} */
  get camera() {
    const [left, top, width, height] = cameraAt(this.current, this.depth);
    return [left + this.offset[0] * width, top + this.offset[1] * height, width, height];
  }

  /** Keep what is seen inside of state 0; a flight between two spots may pass beyond it. */
  stayInside() {
    if (this.motion) return;
    const [left, top, width, height] = cameraAt(this.current, this.depth);
    const [x, y, w, h] = this.current.layers[0].view;
    const [across, down] = this.offset;
    this.offset = [
      (clamp(left + across * width, x, Math.max(x, x + w - width)) - left) / width,
      (clamp(top + down * height, y, Math.max(y, y + h - height)) - top) / height,
    ];
  }

  /** Give the canvas the pixels that its place on the screen has. */
  fit() {
    if (!this.route) return;
    const box = this.canvas.getBoundingClientRect();
    const density = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.max(1, Math.round(box.width * density));
    this.canvas.height = Math.max(1, Math.round(box.height * density));
    this.paint(); // at once: the canvas is empty now
  }

  redraw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame((now) => {
      this.drawing = 0;
      if (!this.scene) return;
      const { motion } = this;
      if (motion) {
        const goesOn = motion.step(Math.min(now - motion.last, 100)); // a hidden page does not run ahead
        motion.last = now;
        if (!goesOn && this.motion === motion) this.motion = null;
        if (this.motion) this.redraw();
      }
      this.paint();
    });
  }

  paint() {
    if (!this.scene) return;
    this.stayInside();
    const { camera } = this;
    const split = this.allPlain ? 0 : this.comparing ? this.split : 1;
    const next = this.current.layers[Math.min(Math.floor(this.depth + 1e-6) + 1, this.last)];
    const outline = this.outlining && this.depth < this.last ? next.view : null;
    this.scene.draw(camera, split, outline, this.current);
    this.map.update(this.current, camera);
    this.tell();
  }

  /** Say what is seen. */
  tell() {
    this.play.textContent = this.motion?.step === this.playing ? "Pause" : "Play";
    if (!this.scene) return;
    const factor = times(factorAt(this.current, this.depth));
    const number = Math.min(Math.ceil(this.depth - 0.02), this.last);
    const layer = this.current.layers[Math.max(number, 0)];
    this.slider.value = String(this.depth);
    this.slider.setAttribute("aria-valuetext", `${factor}, ${layer.made}`);
    element("factor", HTMLElement).textContent = factor;
    const state = `${this.current.id} ${number} ${this.scene.pictures.broken(layer.src)}`;
    if (state === this.said) return; // a screen reader would read it out again
    this.said = state;
    const facts = [make("p", `${times(layer.factor)} `)];
    facts[0].append(make("span", layer.made, `made ${layer.made}`), `: ${MADE[layer.made]}`);
    if (saidOf(layer)) {
      facts.push(make("blockquote", saidOf(layer)));
      if (layer.extractor) facts.push(make("p", `said by ${layer.extractor}`, "who"));
    }
    if (layer.note) facts.push(make("p", layer.note, "note"));
    if (layer.consistency !== null) {
      facts.push(make("p", `consistency with what it was made from: ${layer.consistency.toFixed(1)} dB`));
    }
    if (layer.texture !== null) facts.push(make("p", `texture: ${layer.texture.toFixed(1)} grey levels`));
    if (this.scene.pictures.broken(layer.src)) facts.push(make("p", "this state's file is gone", "note"));
    element("facts", HTMLElement).replaceChildren(...facts);
    for (const [at, row] of [...element("states", HTMLElement).children].entries()) {
      row.classList.toggle("now", at === number);
    }
  }

  /** Go to a depth at once. @param {number} depth */
  seek(depth) {
    this.depth = clamp(depth, 0, this.last);
    this.redraw();
  }

  /**
   * Go deeper by so many steps, and back onto the way: off it there is nothing to see. Where every state shows the
   * whole picture there is no way, and the point under the pointer stays where it is.
   * @param {number} steps @param {[number, number]} [at] the pointer, as shares of the stage
   */
  zoomBy(steps, at) {
    this.motion = null;
    const before = this.camera;
    const depth = clamp(this.depth + steps, 0, this.last);
    const [left, top, width, height] = cameraAt(this.current, depth);
    if (this.current.whole && at) {
      const x = before[0] + at[0] * (before[2] - width);
      const y = before[1] + at[1] * (before[3] - height);
      this.offset = [(x - left) / width, (y - top) / height];
    } else if (steps < 0) {
      const [x, y] = cameraAt(this.current, this.depth);
      this.offset = [(before[0] - x) / width, (before[1] - y) / height];
    } else {
      const kept = clamp(1 - (depth - this.depth), 0, 1);
      this.offset = this.offset.map((share) => share * kept);
    }
    this.seek(depth);
  }

  /** @param {number} across @param {number} down shares of what is seen */
  pan(across, down) {
    this.motion = null;
    this.offset = [this.offset[0] + across, this.offset[1] + down];
    this.redraw();
  }

  /** Let something happen a frame at a time. @param {(milliseconds: number) => boolean} step tells if it goes on */
  move(step) {
    this.motion = { step, last: performance.now() };
    this.redraw();
  }

  /** Fly to a depth. @param {number} depth @param {() => void} [then] */
  glide(depth, then) {
    const from = this.depth;
    const to = clamp(depth, 0, this.last);
    const [x, y] = this.offset;
    const quick = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const length = quick ? 1 : 350 + 350 * Math.abs(to - from);
    let spent = 0;
    this.move((milliseconds) => {
      spent += milliseconds;
      const share = smooth(spent / length);
      this.depth = from + (to - from) * share;
      this.offset = this.current.whole ? [x, y] : [x * (1 - share), y * (1 - share)];
      if (spent < length) return true;
      if (then) then();
      return false;
    });
  }

  /** Fly out of a spot and into another. @param {Route} route */
  flyTo(route) {
    const into = () => this.glide(this.last);
    if (route === this.route) {
      into();
      return;
    }
    this.glide(0, () => {
      const seen = cameraAt(this.current, 0);
      this.route = route;
      this.show();
      this.flownTo(route);
      const start = cameraAt(route, 0);
      this.depth = 0;
      this.offset = [(seen[0] - start[0]) / start[2], (seen[1] - start[1]) / start[3]];
      into();
    });
  }

  /** Play on, or from the start where the end is reached; or stop. */
  togglePlay() {
    if (this.motion?.step === this.playing) {
      this.motion = null;
      this.tell();
      return;
    }
    if (this.depth > this.last - 0.01) this.depth = 0;
    this.offset = [0, 0];
    this.speed = 0;
    this.move(this.playing);
    this.tell();
  }

  /** One frame of the flight at constant speed, which it reaches and leaves within half a step. */
  playing = (/** @type {number} */ milliseconds) => {
    const left = this.last - this.depth;
    const full = 1 / this.law.secondsAStep;
    this.speed = Math.min(full, this.speed + (full * milliseconds) / 500, full * Math.sqrt(left / 0.25) + 0.02);
    this.depth = Math.min(this.depth + (this.speed * milliseconds) / 1000, this.last);
    return this.depth < this.last;
  };

  /** @param {boolean} on */
  compare(on) {
    this.comparing = on;
    this.handle.hidden = !on;
    element("compare", HTMLButtonElement).setAttribute("aria-pressed", String(on));
    this.splitAt(this.split);
  }

  /** @param {number} share of the stage's width */
  splitAt(share) {
    this.split = clamp(share, 0, 1);
    this.handle.style.left = `${this.split * 100}%`;
    this.handle.setAttribute("aria-valuenow", String(Math.round(this.split * 100)));
    this.redraw();
  }

  outline() {
    this.outlining = !this.outlining;
    element("outline", HTMLButtonElement).setAttribute("aria-pressed", String(this.outlining));
    this.redraw();
  }

  /** @param {boolean} on */
  holdPlain(on) {
    if (this.allPlain === on) return;
    this.allPlain = on;
    this.redraw();
  }
}

/** What steered a state. @param {Layer} layer */
function saidOf(layer) {
  const parts = layer.parts ? `${layer.parts} prompts, one a part of the picture` : "";
  return layer.prompt || parts;
}
