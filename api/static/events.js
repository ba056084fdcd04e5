// Server-sent events read by hand: every type arrives, and the stream ends when the job does.

function parse(block) {
  const data = block
    .split("\n")
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5).trimStart());
  return data.length ? JSON.parse(data.join("\n")) : null;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Call `seen` with every event of a job numbered above `after`. A lost connection is taken up again where it broke off.
 * `over` is asked at each end of the stream whether to stop.
 */
export async function follow(url, after, seen, over) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const response = await fetch(url, { headers: { Accept: "text/event-stream", "Last-Event-ID": String(after) } });
      if (!response.ok) throw new Error(response.statusText);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (rest + value).replaceAll("\r", "").split("\n\n");
        rest = blocks.pop();
        for (const event of blocks.map(parse)) {
          if (event === null) continue;
          after = event.seq;
          wait = 500;
          seen(event);
        }
      }
    } catch {
      // The service restarts or the network is away: tried again below.
    }
    if (await over()) return;
    await pause(wait);
  }
}
