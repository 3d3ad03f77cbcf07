#!/usr/bin/env bash
# Print the namespace and the Secrets that base/ refers to:
#   deploy/kubernetes/secrets.sh | kubectl apply -f -
# The bucket's access keys come from the environment. The identity secret is created once for an
# installation: with a different secret.json, nobody is recognised as the owner of their data.
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
# If the cluster cannot be queried, `immutable` protects an existing secret. To rotate its keys,
# delete it and create one with the same `identity`.
if ! kubectl --namespace plaudit get secret plaudit-identity >/dev/null 2>&1; then
    key_id=$(openssl rand -hex 4)
    secret plaudit-identity --from-literal=secret.json="{\"current\": \"$key_id\",
        \"keys\": {\"$key_id\": \"$(openssl rand -hex 32)\"},
        \"identity\": \"$(openssl rand -hex 32)\"}"
    echo "immutable: true"
fi
