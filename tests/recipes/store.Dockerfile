# An engine whose image has a store in one file: it begins with it wherever it runs, and so does each
# level of `dind nest`.
#
#     docker run --privileged --rm -v "$PWD:/out" dind store save /out/main.erofs -- docker pull node:22
#     docker build -t dind-node -f store.Dockerfile .
FROM dind
COPY main.erofs /var/lib/dind/store
