// What the tabs of one browser tell one another.
const channel = new BroadcastChannel("plaudit");

export const tell = (message) => channel.postMessage(message);
export const onTold = (act) => channel.addEventListener("message", ({ data }) => act(data));
