// Talks to the gateway that served this page. Keeps the token in this tab only; never puts a text into markup.

const TOKEN = "ratchet-token";

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function token(value) {
  if (value !== undefined) sessionStorage.setItem(TOKEN, value);
  return sessionStorage.getItem(TOKEN) ?? "";
}

export async function ask(path, body) {
  const headers = { Accept: "application/json" };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      keepalive: body !== undefined, // a vote that is sent while the page closes still arrives
    });
  } catch {
    throw new Refusal(0, "the gateway does not answer; is the connection there?");
  }
  const found = await answer.json().catch(() => undefined);
  if (!answer.ok) throw new Refusal(answer.status, found?.detail ?? `the gateway answered ${answer.status}`);
  if (found === undefined) throw new Refusal(0, "the gateway's answer broke off; reload the page to ask again");
  return found;
}

export const policies = () => ask("v1/review");
export const queue = (policy, limit, order) => ask(`v1/review/${encodeURIComponent(policy)}?limit=${limit}&order=${order}`);
export const plotted = (policy) => ask(`v1/review/${encodeURIComponent(policy)}/stats`);
export const datasets = (policy) => ask(`v1/review/${encodeURIComponent(policy)}/datasets`);
export const rollout = (policy) => ask(`api/policies/${encodeURIComponent(policy)}/rollout`);
export const totals = (policy) => ask(`api/policies/${encodeURIComponent(policy)}/feedback`);

// One key per vote: a request that is repeated after a lost answer counts once.
export const key = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

export async function send(events) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await ask("v1/feedback", { events });
    } catch (problem) {
      const again = problem.status === 0 || problem.status === 429 || problem.status === 503;
      if (!again || attempt === 3) throw problem;
      await new Promise((done) => setTimeout(done, 400 * attempt));
    }
  }
}
