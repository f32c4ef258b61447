/**
 * Conversations as branches of one tree of turns: pure functions over a value.
 *
 *     system ─ user 1 ─ answer 2 ─ user 3 ─ answer 4     conversation A
 *                    │          └─ user 7 ─ answer 8     A again: turn 3 was edited
 *                    └ user 5 ─ answer 6                 conversation B
 *
 * A conversation is its last turn; the way to the root is what it says. Editing or regenerating a
 * turn adds a sibling and leaves the old one, as the server's own tree does.
 *
 * A state is {turns: Map(id → turn), conversations: [{id, letter, leaf}], nextId}. A turn is
 * {id, parent, conversation, role, text, ...}; parents and leaves are null for the root. Nothing
 * here changes a state: every function returns a new one.
 */

const LETTERS = "ABC";

/** The most conversations side by side. */
export const MAX_CONVERSATIONS = LETTERS.length;

export function emptyState() {
  return addConversation({ turns: new Map(), conversations: [], nextId: 1 });
}

/** With one more conversation, if there is room; it gets the first letter that is free. */
export function addConversation(state) {
  const taken = new Set(state.conversations.map((each) => each.letter));
  const letter = [...LETTERS].find((each) => !taken.has(each));
  if (letter === undefined) return state;
  const added = { id: state.nextId, letter, leaf: null };
  const conversations = [...state.conversations, added].sort((a, b) => (a.letter < b.letter ? -1 : 1));
  return { ...state, conversations, nextId: state.nextId + 1 };
}

/** Without this conversation and the turns that were only its own. */
export function removeConversation(state, id) {
  return {
    ...state,
    turns: new Map([...state.turns].filter(([, turn]) => turn.conversation !== id)),
    conversations: state.conversations.filter((each) => each.id !== id),
  };
}

/** The turns from the first to `leaf`. */
export function pathTo(state, leaf) {
  const path = [];
  for (let turn = state.turns.get(leaf); turn; turn = state.turns.get(turn.parent)) path.push(turn);
  return path.reverse();
}

/** With a turn behind the parent; the conversation now ends with it. [state, id of the turn] */
export function addTurn(state, conversation, parent, fields) {
  const id = state.nextId;
  const turns = new Map(state.turns).set(id, { ...fields, id, parent, conversation });
  return [lead({ ...state, turns, nextId: id + 1 }, conversation, id), id];
}

/** With these fields of a turn replaced; a turn that is gone stays gone. */
export function patchTurn(state, id, fields) {
  const turn = state.turns.get(id);
  if (!turn) return state;
  return { ...state, turns: new Map(state.turns).set(id, { ...turn, ...fields }) };
}

/** Without this turn and all that came of it; the conversation goes on at the nearest that is left. */
export function removeTurn(state, id) {
  const removed = state.turns.get(id);
  if (!removed) return state;
  const gone = new Set([id]);
  // Ids grow: a turn comes behind its parent.
  for (const turn of state.turns.values()) if (gone.has(turn.parent)) gone.add(turn.id);
  const turns = new Map([...state.turns].filter(([each]) => !gone.has(each)));
  const next = { ...state, turns };
  const sibling = versionsIn(next)(removed).at(-1);
  return lead(next, removed.conversation, sibling ? newestLeaf(next, sibling.id) : removed.parent);
}

/** A function from a turn to its versions, itself among them, oldest first. */
export function versionsIn(state) {
  const keyOf = ({ parent, conversation, role }) => `${parent} ${conversation} ${role}`;
  const versions = new Map();
  for (const turn of state.turns.values()) {
    const key = keyOf(turn);
    if (!versions.has(key)) versions.set(key, []);
    versions.get(key).push(turn);
  }
  return (turn) => versions.get(keyOf(turn)) ?? [];
}

/** The conversation shows this version of a turn, and what was last said behind it. */
export function showVersion(state, id) {
  return lead(state, state.turns.get(id).conversation, newestLeaf(state, id));
}

/** The turns without a successor: where each branch ends. */
export function leavesOf(state) {
  const parents = new Set([...state.turns.values()].map((turn) => turn.parent));
  return [...state.turns.values()].filter((turn) => !parents.has(turn.id));
}

function newestLeaf(state, id) {
  const turns = [...state.turns.values()];
  let leaf = id;
  for (;;) {
    const next = turns.findLast((turn) => turn.parent === leaf);
    if (!next) return leaf;
    leaf = next.id;
  }
}

function lead(state, conversation, leaf) {
  const conversations = state.conversations.map((each) =>
    each.id === conversation ? { ...each, leaf } : each,
  );
  return { ...state, conversations };
}
