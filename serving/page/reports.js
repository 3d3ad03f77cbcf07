// Reports of versions, loaded when they are shown; the latest few are cached.
import { ApiError, getJson } from "./api.js";
import { createStore, useEffect, useStore } from "./ui.js";

const MOST = 16;

/** Version -> its report; null if it has none. */
const reports = createStore(new Map());
const asked = new Set();

async function read(version) {
  if (asked.has(version)) return;
  asked.add(version);
  try {
    const report = await getJson(`/v1/learning/reports/${version}`);
    keep(version, report);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 404) keep(version, null);
    else asked.delete(version); // it can be requested again
  }
}

function keep(version, report) {
  const all = [...reports.get(), [version, report]].slice(-MOST);
  const kept = new Map(all);
  for (const old of asked) if (reports.get().has(old) && !kept.has(old)) asked.delete(old);
  reports.set(kept);
}

/** Return a Map of the reports of these versions, as they arrive. */
export function useReports(versions) {
  useEffect(() => {
    for (const version of versions) read(version);
  }, [versions.join()]);
  return useStore(reports);
}
