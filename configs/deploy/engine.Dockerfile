# An engine image that starts warm: the artifact was recorded on the same GPU and engine version, and exported by
#   ray-warmup cache export artifact.rwa
FROM <engine image>
RUN pip install --no-cache-dir ray-warmup
# Without bytecode each process of an engine compiles all its modules anew.
RUN python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" || true
ENV RAY_WARMUP_CACHE_ROOT=/opt/ray-warmup
COPY artifact.rwa /tmp/artifact.rwa
RUN ray-warmup cache import /tmp/artifact.rwa && rm /tmp/artifact.rwa
