FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/penstock \
 && pip wheel --no-cache-dir --no-deps --wheel-dir /wheel . \
 && /opt/penstock/bin/pip install --no-cache-dir "$(ls /wheel/penstock-*.whl)[server,compression]"

FROM python:3.11-slim
COPY --from=build /opt/penstock /opt/penstock
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin penstock \
 && install --directory --owner penstock --group penstock --mode 0750 /data
ENV PATH=/opt/penstock/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /data
EXPOSE 7420 7421
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["penstock", "health"]
ENTRYPOINT ["penstock", "serve", "--data", "/data", "--host", "0.0.0.0", "--http-host", "0.0.0.0"]
