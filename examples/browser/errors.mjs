// What went wrong, in words.

/** What was given, what is accepted, what to do. */
export class LDMError extends Error {
  name = "LDMError";
}

/** Throw an LDMError with `text` unless something `holds`. */
export function ensure(holds, text) {
  if (!holds) throw new LDMError(text);
}

// What is said where memory, or what can be addressed, is too small.
const MEMORY =
  /bad_alloc|out of memory|allocation failed|memory access out of bounds|integer overflow|shape is too large|enlarge memory/i;
const START = /no available backend|dynamically imported module/i;

/** The text for a person of any error of a page or a program. */
export function messageOf(error) {
  const text = String(error?.message ?? error);
  if (error instanceof LDMError) return text;
  if (MEMORY.test(text))
    return `The memory that a program may take does not hold this: ${text.slice(0, 200)}. Render a smaller picture, close other tabs, or take a smaller model.`;
  if (START.test(text))
    return `ONNX Runtime does not start: ${text.slice(0, 200)}. Its files come by npm ci beside the page.`;
  return `This failed: ${text}`;
}
