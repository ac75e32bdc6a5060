// How a flight is steered: wheel, fingers, keys, buttons, and the handle of the comparison.
"use strict";

class Steering {
  /** @param {Flight} flight @param {HTMLCanvasElement} canvas its stage */
  constructor(flight, canvas) {
    this.flight = flight;
    this.canvas = canvas;
    this.listen();
    this.listenToPointers();
    this.listenToHandle();
  }

  listen() {
    const { canvas, flight } = this;
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const pixels = event.deltaY * [1, 30, 400][event.deltaMode];
        flight.zoomBy(-pixels / (event.ctrlKey ? 150 : 600), this.share(event)); // with ctrl: a touchpad's pinch
      },
      { passive: false },
    );
    canvas.addEventListener("dblclick", (event) => {
      flight.glide(Math.round(flight.depth) + (event.shiftKey ? -1 : 1));
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("keyup", (event) => event.key.toLowerCase() === "b" && flight.holdPlain(false));
    canvas.addEventListener("blur", () => flight.holdPlain(false));
    flight.slider.addEventListener("input", () => {
      flight.motion = null;
      flight.offset = [0, 0];
      flight.seek(Number(flight.slider.value));
    });
    flight.play.addEventListener("click", () => flight.togglePlay());
    element("compare", HTMLButtonElement).addEventListener("click", () => flight.compare(!flight.comparing));
    element("outline", HTMLButtonElement).addEventListener("click", () => flight.outline());
  }

  listenToPointers() {
    const { canvas, flight } = this;
    /** @type {Map<number, [number, number]>} */
    const fingers = new Map();
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const apart = fingers.size === 2 ? spread() : 0;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 1) {
        const box = canvas.getBoundingClientRect();
        flight.pan((before[0] - event.clientX) / box.width, (before[1] - event.clientY) / box.height);
      } else if (apart > 0) {
        const step = flight.last ? flight.current.layers[1].factor : 2;
        flight.zoomBy(Math.log(spread() / apart) / Math.log(step), this.share(event));
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => fingers.delete(/** @type {PointerEvent} */ (event).pointerId));
    }
  }

  listenToHandle() {
    const { flight } = this;
    const { handle } = flight;
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) flight.splitAt(this.share(event)[0]);
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.05, ArrowDown: -0.05, ArrowRight: 0.05, ArrowUp: 0.05, Home: -1, End: 1 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      flight.splitAt(flight.split + by);
    });
  }

  /** Where an event is on the stage, as shares of it. @param {MouseEvent} event @returns {[number, number]} */
  share(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { flight } = this;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    /** @type {Record<string, () => void>} */
    const keys = {
      "+": () => flight.zoomBy(0.25),
      "=": () => flight.zoomBy(0.25),
      "-": () => flight.zoomBy(-0.25),
      PageUp: () => flight.glide(Math.ceil(flight.depth - 1.01)),
      PageDown: () => flight.glide(Math.floor(flight.depth + 1.01)),
      Home: () => flight.glide(0),
      End: () => flight.glide(flight.last),
      ArrowLeft: () => flight.pan(-0.1, 0),
      ArrowRight: () => flight.pan(0.1, 0),
      ArrowUp: () => flight.pan(0, -0.1),
      ArrowDown: () => flight.pan(0, 0.1),
      " ": () => flight.togglePlay(),
      b: () => flight.holdPlain(flight.current.layers.some((layer) => layer.plain)),
      c: () => !element("compare", HTMLButtonElement).hidden && flight.compare(!flight.comparing),
      o: () => flight.outline(),
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const act = /^[0-9]$/.test(key) ? () => flight.glide(Number(key)) : keys[key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
