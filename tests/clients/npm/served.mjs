// What the tests know of the server, as served.py has it for those in Python.

export const HTTP = process.env.TANDEM_HTTP;
export const GRPC = process.env.TANDEM_GRPC;
export const PROTO = process.env.TANDEM_PROTO;
export const MODEL = "tandem-demo";
export const ALIAS = process.env.TANDEM_ALIAS;
export const QUESTION = "What is prefill?";
export const ANSWER =
  "Prefill is the first phase of a request: the model reads the whole prompt in parallel, fills the KV cache and " +
  "produces the first token.";
