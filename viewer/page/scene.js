// The world of a picture on a canvas: states as layers at their exact places, cross-faded as the camera flies through.
// The law is that of viewer/flight.py: a stop is where a state fills the view, a depth counts stops on a log scale.
"use strict";

/**
 * @typedef {[number, number, number, number]} Rectangle left, top, width, height, in the picture's pixels
 * @typedef {object} Layer one state
 * @property {string} src the state
 * @property {string} plain the same place, enlarged with BICUBIC from what the first network got; empty: src is that
 * @property {Rectangle} view what it shows
 * @property {Rectangle} stop where the camera is when it has reached the state
 * @property {number} factor against state 0
 * @property {string} made real, enlarged or invented
 * @property {string} prompt
 * @property {string} extractor
 * @property {string} note
 * @property {number} parts prompts of parts of the state, beside or instead of `prompt`
 * @property {number | null} consistency
 * @property {number | null} texture
 * @typedef {object} Route a picture, or a spot in one
 * @property {string} id
 * @property {string} label
 * @property {string} spot
 * @property {[number, number]} size of the picture
 * @property {[number, number]} aspect of its states
 * @property {boolean} whole every state shows the whole picture
 * @property {Layer[]} layers from state 0 on
 * @typedef {{fade: number, feather: number, secondsAStep: number}} Law
 */

/** @param {number} value @param {number} least @param {number} most */
function clamp(value, least, most) {
  return Math.min(Math.max(value, least), most);
}

/** 0 to 1 with no slope at both ends. @param {number} share */
function smooth(share) {
  const s = clamp(share, 0, 1);
  return s * s * (3 - 2 * s);
}

/** Where the camera is at a depth of a route. @param {Route} route @param {number} depth @returns {Rectangle} */
function cameraAt(route, depth) {
  const [before, after, share] = around(route, depth);
  const [left, width] = between(before.stop[0], before.stop[2], after.stop[0], after.stop[2], share);
  const [top, height] = between(before.stop[1], before.stop[3], after.stop[1], after.stop[3], share);
  return [left, top, width, height];
}

/** How many times state 0 is enlarged at a depth. @param {Route} route @param {number} depth */
function factorAt(route, depth) {
  const [before, after, share] = around(route, depth);
  return before.factor ** (1 - share) * after.factor ** share;
}

/** @param {Route} route @param {number} depth @returns {[Layer, Layer, number]} */
function around(route, depth) {
  const last = route.layers.length - 1;
  const before = clamp(Math.floor(depth), 0, Math.max(last - 1, 0));
  return [route.layers[before], route.layers[Math.min(before + 1, last)], clamp(depth, 0, last) - before];
}

/**
 * One axis of a zoom about the point that lies at the same place at both its ends.
 * @param {number} start @param {number} size @param {number} nextStart @param {number} nextSize
 * @param {number} share @returns {[number, number]} start and size
 */
function between(start, size, nextStart, nextSize, share) {
  const now = size ** (1 - share) * nextSize ** share;
  const way = size === nextSize ? 0 : (size - now) / (size - nextSize);
  return [start + (nextStart - start) * way, now];
}

/** Steps that the camera is short of a layer's stop: 0 there, negative beyond it.
 * @param {Route} route @param {number} number @param {Rectangle} camera */
function stepsToGo(route, number, camera) {
  const layer = route.layers[number];
  const ratio = number ? layer.factor / route.layers[number - 1].factor : 2;
  return Math.log(camera[2] / layer.stop[2]) / Math.log(ratio);
}

/**
 * How a layer lies over those before it: its opacity, and how far its soft edges reach inwards, as a share of its sides.
 * @param {Route} route @param {number} number @param {Rectangle} camera @param {Law} law @returns {[number, number]}
 */
function presence(route, number, camera, law) {
  if (!number) return [1, 0];
  const way = clamp(1 - stepsToGo(route, number, camera), 0, 1);
  return [smooth(way / law.fade), law.feather * (1 - way ** 2)];
}

/** Pictures that are read when they are first wanted. */
class Pictures {
  /** @param {() => void} changed called when a picture has come, or cannot be read */
  constructor(changed) {
    this.changed = changed;
    /** @type {Map<string, {image: HTMLImageElement, ready: boolean, broken: boolean}>} */
    this.known = new Map();
  }

  /** Return a picture; null as long as it is not there. @param {string} src */
  get(src) {
    let entry = this.known.get(src);
    if (!entry) {
      const fresh = { image: new Image(), ready: false, broken: false };
      this.known.set(src, fresh);
      fresh.image.src = src;
      fresh.image.decode().then(
        () => {
          fresh.ready = true;
          this.changed();
        },
        () => {
          fresh.broken = true;
          this.changed();
        },
      );
      entry = fresh;
    }
    return entry.ready ? entry.image : null;
  }

  /** @param {string} src */
  broken(src) {
    return this.known.get(src)?.broken ?? false;
  }

  /** Forget all but these. @param {Set<string>} wanted */
  keep(wanted) {
    for (const src of this.known.keys()) if (!wanted.has(src)) this.known.delete(src);
  }
}

/** Draws the routes of one picture, which share its world. */
class Scene {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Route[]} routes
   * @param {Law} law
   * @param {() => void} changed called when there is something new to draw
   */
  constructor(canvas, routes, law, changed) {
    this.canvas = canvas;
    this.routes = routes;
    this.law = law;
    this.pictures = new Pictures(changed);
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.soft = document.createElement("canvas"); // one layer with soft edges, before it is laid over the others
  }

  /**
   * Draw what the camera sees.
   * @param {Rectangle} camera
   * @param {number} split share of the width from which on plain bicubic is shown; 1 for nowhere
   * @param {Rectangle | null} outline a part of the world to frame
   * @param {Route} current the route that is flown: its states lie over those of other spots
   */
  draw(camera, split, outline, current) {
    const { context, canvas } = this;
    const wanted = /** @type {Set<string>} */ (new Set());
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    if (split > 0) this.drawLayers(camera, false, wanted, current);
    if (split < 1) {
      context.save();
      context.beginPath();
      context.rect(split * canvas.width, 0, canvas.width, canvas.height);
      context.clip();
      this.drawLayers(camera, true, wanted, current);
      context.restore();
    }
    this.pictures.keep(wanted);
    if (outline) this.frame(this.place(outline, camera));
  }

  /** @param {Rectangle} camera @param {boolean} plain @param {Set<string>} wanted @param {Route} current */
  drawLayers(camera, plain, wanted, current) {
    const visible = [];
    for (const route of [...this.routes.filter((one) => one !== current), current]) {
      for (let number = 0; number < route.layers.length; number++) {
        const layer = route.layers[number];
        const toGo = stepsToGo(route, number, camera);
        if (number && (toGo > 1.5 || toGo < -3)) continue; // too far ahead, or long behind
        const place = this.place(layer.view, camera);
        if (!this.sees(place)) continue;
        const src = (plain && layer.plain) || layer.src;
        wanted.add(src);
        const image = this.pictures.get(src); // asked for a little before it is seen
        const [opacity, feather] = presence(route, number, camera, this.law);
        if (image && opacity > 0) visible.push({ image, place, opacity, feather, number });
      }
    }
    visible.sort((a, b) => a.number - b.number);
    const covers = visible.map((one) => one.opacity === 1 && one.feather === 0 && this.fills(one.place));
    for (const one of visible.slice(Math.max(covers.lastIndexOf(true), 0))) {
      if (one.opacity === 1 && one.feather === 0) {
        this.put(this.context, one.image, one.place);
      } else {
        this.layOver(one.image, one.place, one.opacity, one.feather);
      }
    }
  }

  /** Where a part of the world is on the canvas. @param {Rectangle} part @param {Rectangle} camera @returns {Rectangle} */
  place(part, camera) {
    const across = this.canvas.width / camera[2];
    const down = this.canvas.height / camera[3];
    return [(part[0] - camera[0]) * across, (part[1] - camera[1]) * down, part[2] * across, part[3] * down];
  }

  /** @param {Rectangle} place */
  sees([left, top, width, height]) {
    return left < this.canvas.width && top < this.canvas.height && left + width > 0 && top + height > 0;
  }

  /** @param {Rectangle} place */
  fills([left, top, width, height]) {
    const slack = 0.01;
    return (
      left <= slack &&
      top <= slack &&
      left + width >= this.canvas.width - slack &&
      top + height >= this.canvas.height - slack
    );
  }

  /**
   * Draw the part of a picture that is seen, in whole pixels of it: at great magnifications the rest would lie
   * millions of pixels away, where coordinates are no longer exact.
   * @param {CanvasRenderingContext2D} context
   * @param {HTMLImageElement} image
   * @param {Rectangle} place of the whole picture on the canvas
   */
  put(context, image, [left, top, width, height]) {
    const across = width / image.naturalWidth;
    const down = height / image.naturalHeight;
    const margin = 3; // pixels that smoothing looks at beyond the edge
    const x0 = clamp(Math.floor(-left / across) - margin, 0, image.naturalWidth - 1);
    const y0 = clamp(Math.floor(-top / down) - margin, 0, image.naturalHeight - 1);
    const x1 = clamp(Math.ceil((this.canvas.width - left) / across) + margin, x0 + 1, image.naturalWidth);
    const y1 = clamp(Math.ceil((this.canvas.height - top) / down) + margin, y0 + 1, image.naturalHeight);
    context.drawImage(
      image,
      x0,
      y0,
      x1 - x0,
      y1 - y0,
      left + x0 * across,
      top + y0 * down,
      (x1 - x0) * across,
      (y1 - y0) * down,
    );
  }

  /** Lay a picture with soft edges over what is there.
   * @param {HTMLImageElement} image @param {Rectangle} place @param {number} opacity @param {number} feather */
  layOver(image, place, opacity, feather) {
    const { soft } = this;
    if (soft.width !== this.canvas.width || soft.height !== this.canvas.height) {
      soft.width = this.canvas.width;
      soft.height = this.canvas.height;
    }
    const context = /** @type {CanvasRenderingContext2D} */ (soft.getContext("2d"));
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, soft.width, soft.height);
    context.imageSmoothingQuality = "high";
    this.put(context, image, place);
    context.globalCompositeOperation = "destination-in";
    const [left, top, width, height] = place;
    for (const gradient of [
      context.createLinearGradient(left, 0, left + width, 0),
      context.createLinearGradient(0, top, 0, top + height),
    ]) {
      for (let n = 0; n <= 8; n++) {
        const colour = `rgb(0 0 0 / ${feather ? smooth(n / 8) : 1})`;
        gradient.addColorStop((n / 8) * feather, colour);
        gradient.addColorStop(1 - (n / 8) * feather, colour);
      }
      context.fillStyle = gradient;
      context.fillRect(0, 0, soft.width, soft.height);
    }
    this.context.globalAlpha = opacity;
    this.context.drawImage(soft, 0, 0);
    this.context.globalAlpha = 1;
  }

  /** @param {Rectangle} place */
  frame([left, top, width, height]) {
    const { context } = this;
    const thin = Math.max(2, Math.round(this.canvas.width / 350));
    for (const [thickness, stroke] of /** @type {[number, string][]} */ ([
      [3 * thin, "rgb(0 0 0 / 0.6)"],
      [thin, "white"],
    ])) {
      context.lineWidth = thickness;
      context.strokeStyle = stroke;
      context.strokeRect(left, top, width, height);
    }
  }
}
