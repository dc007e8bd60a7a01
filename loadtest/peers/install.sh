#!/usr/bin/env bash
# Installs the brokers that `penstock loadtest compare` runs beside Penstock: Debian's packages, and Kafka's jars
# from Maven. Nothing is started and nothing stays running; the load test starts each for itself, on loopback.
#
#   loadtest/peers/install.sh [rabbitmq] [redis] [nats] [beanstalkd] [kafka]      all without a name
set -euo pipefail

KAFKA_VERSION=${KAFKA_VERSION:-3.9.1}
JARS=${PENSTOCK_KAFKA_JARS:-$HOME/.cache/penstock-peers/kafka}
declare -A PACKAGES=(
    [rabbitmq]=rabbitmq-server [redis]=redis-server [nats]=nats-server [beanstalkd]=beanstalkd
    [kafka]="default-jre-headless maven"
)

packages() {
    # Services that a package would start are refused for as long as this runs.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod +x $policy
        trap "rm -f $policy" EXIT
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $1
}

kafka_jars() {
    local pom
    pom=$(mktemp -d)/pom.xml
    cat > "$pom" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
  <groupId>penstock</groupId><artifactId>peers</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
    mkdir -p "$JARS"
    mvn -q -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$JARS"
}

wanted=("$@")
[ $# -gt 0 ] || wanted=(rabbitmq redis nats beanstalkd kafka)
list=
for name in "${wanted[@]}"; do
    [ -n "${PACKAGES[$name]:-}" ] || { echo "there is no peer $name: ${!PACKAGES[*]}" >&2; exit 2; }
    for package in ${PACKAGES[$name]}; do
        [ "$package" = maven ] && command -v mvn > /dev/null && continue
        [ "$package" = default-jre-headless ] && command -v java > /dev/null && continue
        list="$list $package"
    done
done
[ -z "$list" ] || packages "$list"
case " ${wanted[*]} " in *" kafka "*) kafka_jars ;; esac
