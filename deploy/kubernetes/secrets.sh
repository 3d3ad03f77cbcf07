#!/usr/bin/env bash
# Print the namespace and the Secrets that base/ names:
#   deploy/kubernetes/secrets.sh | kubectl apply -f -
# The keys of the bucket come from the environment. The identity is made once for an installation:
# by another secret.json everybody is a stranger to what they own.
set -euo pipefail
: "${AWS_ACCESS_KEY_ID:?the bucket\'s}" "${AWS_SECRET_ACCESS_KEY:?the bucket\'s}"

secret() {
    echo ---
    kubectl create secret generic "$1" --namespace plaudit --dry-run=client --output yaml "${@:2}"
}

cat "$(dirname "$0")/base/namespace.yaml"
secret plaudit \
    --from-literal=AWS_ACCESS_KEY_ID="$AWS_ACCESS_KEY_ID" \
    --from-literal=AWS_SECRET_ACCESS_KEY="$AWS_SECRET_ACCESS_KEY"
# Where the cluster does not answer, `immutable` keeps the one that is there. To rotate its keys,
# delete it and create one with the same `identity`.
if ! kubectl --namespace plaudit get secret plaudit-identity >/dev/null 2>&1; then
    key_id=$(openssl rand -hex 4)
    secret plaudit-identity --from-literal=secret.json="{\"current\": \"$key_id\",
        \"keys\": {\"$key_id\": \"$(openssl rand -hex 32)\"},
        \"identity\": \"$(openssl rand -hex 32)\"}"
    echo "immutable: true"
fi
