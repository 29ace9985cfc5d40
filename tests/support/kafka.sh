#!/bin/sh
# Apache Kafka for tests: fetches its jars once, and starts one broker without ZooKeeper on a given port.
#
#   kafka.sh fetch                       jars into ${WEIR_CACHE:-$HOME/.cache/weir}/kafka-VERSION/lib; prints that folder
#   kafka.sh run DIRECTORY PORT [LINE…]  a broker in the foreground, its data in DIRECTORY; each LINE is added to its
#                                        configuration. PORT and PORT_CONTROLLER (or PORT + 1) on 127.0.0.1.
#                                        SCRAM_USER (name=…,password=…) is known to SCRAM-SHA-256 and -512.
#
# A second `run` in the same directory goes on with the same data.
set -eu

version=4.3.1 # 4.4.0 names jars that cannot be resolved
slf4j=1.7.36  # without it the broker logs nothing
cache=${WEIR_CACHE:-$HOME/.cache/weir}/kafka-$version

fetch() {
    if [ ! -e "$cache/lib/kafka_2.13-$version.jar" ]; then
        mkdir -p "$cache"
        # Two test runs may want it at once.
        exec 9>"$cache/lock"
        flock 9
    fi
    if [ ! -e "$cache/lib/kafka_2.13-$version.jar" ]; then
        cat >"$cache/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>weir.tests</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>$slf4j</version></dependency>
  </dependencies>
</project>
POM
        rm -rf "$cache/lib.new"
        (cd "$cache" && mvn -B -q dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=lib.new >&2)
        rm -rf "$cache/lib"
        mv "$cache/lib.new" "$cache/lib"
    fi
    echo "$cache/lib"
}

run() {
    directory=$1 port=$2
    shift 2
    controller=${PORT_CONTROLLER:-$((port + 1))}
    lib=$(fetch)
    mkdir -p "$directory"
    {
        cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$directory/data
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
log.flush.interval.messages=1
# A broker that was killed comes back in seconds, not when its old registration has timed out.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
PROPERTIES
        for line in "$@"; do echo "$line"; done
    } >"$directory/server.properties"
    if [ ! -e "$directory/data/meta.properties" ]; then
        java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$lib/*" kafka.tools.StorageTool format --cluster-id AAAAAAAAQACAAAAAAAAAAQ \
            ${SCRAM_USER:+--add-scram "SCRAM-SHA-256=[$SCRAM_USER]" --add-scram "SCRAM-SHA-512=[$SCRAM_USER]"} --config "$directory/server.properties" >&2
    fi
    exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xms128m -Xmx384m -cp "$lib/*" kafka.Kafka "$directory/server.properties"
}

case ${1:-} in
fetch) fetch ;;
run)
    shift
    run "$@"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
