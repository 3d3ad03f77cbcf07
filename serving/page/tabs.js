// Messages between the tabs of one browser.
const channel = new BroadcastChannel("plaudit");

export const postToTabs = (message) => channel.postMessage(message);
export const onTabMessage = (act) => channel.addEventListener("message", ({ data }) => act(data));
