/**
 * What a browser remembers for a page, where it does: some users and some browsers forbid it.
 *
 * `session` ends with the tab, `local` does not. What could not be kept is simply not there later.
 */

export const session = remembering(() => sessionStorage);
export const local = remembering(() => localStorage);

function remembering(storage) {
  const tried = (work, otherwise) => {
    try {
      return work(storage());
    } catch {
      return otherwise;
    }
  };
  return {
    /** The text kept under `name`, or null. */
    get: (name) => tried((kept) => kept.getItem(name), null),
    set: (name, text) => tried((kept) => kept.setItem(name, text)),
    remove: (name) => tried((kept) => kept.removeItem(name)),
  };
}
