#!/usr/bin/env bash
# Print the Secrets that base/ names:  deploy/kubernetes/secrets.sh | kubectl apply -f -
# The keys of the bucket come from the environment. Made once for an installation: by another
# secret.json everybody is a stranger to what they own.
set -euo pipefail

secret() {
    kubectl create secret generic "$1" --namespace plaudit --dry-run=client --output yaml "${@:2}"
}

key_id=$(openssl rand -hex 4)
secret plaudit-identity --from-literal=secret.json="{\"current\": \"$key_id\",
    \"keys\": {\"$key_id\": \"$(openssl rand -hex 32)\"},
    \"identity\": \"$(openssl rand -hex 32)\"}"
echo ---
secret plaudit \
    --from-literal=AWS_ACCESS_KEY_ID="${AWS_ACCESS_KEY_ID:?the bucket\'s}" \
    --from-literal=AWS_SECRET_ACCESS_KEY="${AWS_SECRET_ACCESS_KEY:?the bucket\'s}"
