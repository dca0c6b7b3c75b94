/** What drawing on a canvas needs: its size at the screen's resolution, and the theme's colours. */

/** Fit a canvas to a size in CSS pixels; returns what draws on it, in these, on nothing. */
export function fitted(canvas: HTMLCanvasElement, wide: number, high: number): CanvasRenderingContext2D | null {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(wide * ratio), Math.round(high * ratio)];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.style.height = `${high}px`;
  }
  const pen = canvas.getContext("2d");
  pen?.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen?.clearRect(0, 0, wide, high);
  return pen;
}

/** Read the colours that the theme has now, each as `--aa-` and its name; by name. */
export function palette(element: Element, names: readonly string[]): (name: string) => string {
  const style = getComputedStyle(element);
  const read = new Map(names.map((name) => [name, style.getPropertyValue(`--aa-${name}`).trim()]));
  return (name) => read.get(name) || "#888";
}
