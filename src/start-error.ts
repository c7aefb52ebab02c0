// Errors of the start that the operator can fix.

/** Ends the start. The message is one line without secrets: what happened, to what, and what to do. */
export class StartError extends Error {
  override name = 'StartError'
}
