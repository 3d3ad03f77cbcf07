#!/usr/bin/env bash
# Copy the libraries that package-lock.json pins to the folders where the page and its tests load
# them. To update: npm update --package-lock-only, then run this script and the browser tests.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --ignore-scripts --no-audit --no-fund

page=../../serving/page/vendor
tests=../../tests/browser/vendor
rm -rf "$page" "$tests"
mkdir -p "$page" "$tests"

# Browsers cannot resolve bare module names, and an import map would have to be inline. References
# to source maps are removed, because the maps are not shipped.
copy() { # FROM, TO
    sed -e 's|from"preact"|from"./preact.js"|' -e '/^\/\/# sourceMappingURL=/d' "node_modules/$1" >"$2"
}
copy preact/dist/preact.mjs "$page/preact.js"
copy preact/hooks/dist/hooks.mjs "$page/hooks.js"
copy htm/dist/htm.mjs "$page/htm.js"
copy marked/lib/marked.esm.js "$page/marked.js"
copy dompurify/dist/purify.es.mjs "$page/purify.js"
cp node_modules/axe-core/axe.min.js "$tests/axe.min.js"
cp node_modules/axe-core/LICENSE "$tests/LICENSE.axe-core.txt"

for name in preact htm marked dompurify; do
    cp "node_modules/$name/LICENSE" "$page/LICENSE.$name.txt"
done
npm ls --depth 0 --omit dev | sed -n "s/.* \([a-z-]*@\)/\1/p" >"$page/VERSIONS.txt"
rm -rf node_modules
