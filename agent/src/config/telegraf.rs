//! What Telegraf has and Weir does not, so that somebody who comes from there is told that instead of "unknown".

/// Tables of Telegraf's that Weir has in another way: the message and what to do instead.
pub fn table(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "aggregators" => {
            ("Weir has no aggregators, it has windows", "write [[windows]] with `every` (the aggregator's period) and `aggregates`")
        }
        "processors" => (
            "Weir has no processors",
            "names, tags and fields are changed by name_override, name_prefix, name_suffix, tags and the filters of each input and output",
        ),
        "secretstores" => ("Weir has no secret stores", "use \"@{file:/path}\" or \"@{credential:name}\" where the secret is needed"),
        "tags" => ("Weir has no [tags]", "write [global_tags]"),
        _ => return None,
    })
}

/// Whether Telegraf has a plugin of this name.
pub fn has(kind: &str, name: &str) -> bool {
    let list: &[&str] = match kind {
        "inputs" => &INPUTS,
        "outputs" => &OUTPUTS,
        _ => &[],
    };
    list.contains(&name)
}

/// The nearest thing Weir has to a Telegraf plugin that many use.
pub fn instead(kind: &str, name: &str) -> Option<&'static str> {
    Some(match (kind, name) {
        ("inputs", "http_listener" | "http_listener_v2" | "influxdb_v3_listener") => {
            "inputs.influxdb_v2_listener takes InfluxDB's write API"
        }
        ("inputs", "tcp_listener" | "udp_listener" | "statsd") => "inputs.socket_listener takes tcp, udp and unix sockets",
        ("inputs", "logparser") => "inputs.tail follows files",
        ("inputs", "execd" | "exec") => {
            "let the program write to a pipe and read it with inputs.stdin, or to a socket with inputs.socket_listener"
        }
        ("outputs", "influxdb_v3") => "outputs.influxdb_v2 writes to InfluxDB 3 too",
        ("outputs", "discard") => "leave outputs away",
        _ => return None,
    })
}

#[rustfmt::skip]
const INPUTS: [&str; 210] = [
    "activemq", "aerospike", "aliyuncms", "amd_rocm_smi", "amqp_consumer", "apache", "apcupsd", "aurora", "azure_monitor",
    "azure_storage_queue", "bcache", "beanstalkd", "bind", "bond", "burrow", "ceph", "cgroup", "chrony", "cisco_telemetry_mdt",
    "clickhouse", "cloud_pubsub", "cloud_pubsub_push", "cloudwatch", "conntrack", "consul", "couchbase", "couchdb", "cpu", "cpufreq",
    "csgo", "ctrlx_datalayer", "dcos", "directory_monitor", "disk", "diskio", "disque", "dmcache", "dns_query", "docker", "docker_log",
    "dovecot", "dpdk", "ecs", "elasticsearch", "ethtool", "eventhub_consumer", "exec", "execd", "fail2ban", "fibaro", "file", "filecount",
    "filestat", "fireboard", "fluentd", "github", "gnmi", "graylog", "haproxy", "hddtemp", "http", "http_listener", "http_listener_v2",
    "http_response", "huebridge", "hugepages", "icinga2", "infiniband", "influxdb", "influxdb_listener", "influxdb_v2_listener",
    "intel_rdt", "internal", "internet_speed", "interrupts", "ipmi_sensor", "ipset", "iptables", "ipvs", "jenkins", "jolokia2_agent",
    "jolokia2_proxy", "jti_openconfig_telemetry", "kafka_consumer", "kapacitor", "kernel", "kernel_vmstat", "kibana", "kinesis_consumer",
    "knx_listener", "kube_inventory", "kubernetes", "ldap", "leofs", "libvirt", "linux_cpu", "linux_sysctl_fs", "logparser", "logstash",
    "lustre2", "lvm", "mailchimp", "mdstat", "mem", "memcached", "mesos", "minecraft", "mock", "modbus", "mongodb", "monit",
    "mqtt_consumer", "multifile", "mysql", "nats", "nats_consumer", "neoom_beaam", "net", "net_response", "netflow", "netstat",
    "nfsclient", "nginx", "nomad", "nsq", "nsq_consumer", "nstat", "ntpq", "nvidia_smi", "opcua", "opcua_listener", "openldap",
    "opensearch_query", "openstack", "opentelemetry", "openweathermap", "oracle", "p4runtime", "passenger", "pf", "phpfpm", "ping",
    "postfix", "postgresql", "powerdns", "processes", "procstat", "prometheus", "proxmox", "puppetagent", "rabbitmq", "radius",
    "raindrops", "redfish", "redis", "redis_sentinel", "rethinkdb", "riak", "s7comm", "sensors", "sflow", "slab", "slurm", "smart",
    "smartctl", "snmp", "snmp_trap", "socket_listener", "socketstat", "solr", "sql", "sqlserver", "stackdriver", "statsd", "supervisor",
    "suricata", "swap", "synproxy", "syslog", "sysstat", "system", "systemd_units", "tacacs", "tail", "tcp_listener", "temp", "tengine",
    "timex", "tomcat", "trig", "twemproxy", "udp_listener", "unbound", "upsd", "uwsgi", "varnish", "vault", "vsphere", "webhooks",
    "whois", "win_eventlog", "win_perf_counters", "win_services", "wireguard", "wireless", "x509_cert", "xtremio", "zfs", "zipkin",
    "zookeeper",
];

#[rustfmt::skip]
const OUTPUTS: [&str; 67] = [
    "amon", "amqp", "application_insights", "azure_data_explorer", "azure_monitor", "bigquery", "clarify", "cloud_pubsub", "cloudwatch",
    "cloudwatch_logs", "cratedb", "datadog", "discard", "dynatrace", "elasticsearch", "event_hubs", "exec", "execd", "file", "graphite",
    "graylog", "groundwork", "health", "heartbeat", "http", "influxdb", "influxdb_v2", "influxdb_v3", "inlong", "instrumental", "iotdb",
    "kafka", "kinesis", "librato", "logzio", "loki", "microsoft_fabric", "mongodb", "mqtt", "nats", "nebius_cloud_monitoring", "newrelic",
    "nsq", "opensearch", "opentelemetry", "opentsdb", "parquet", "postgresql", "prometheus_client", "quix", "redistimeseries",
    "remotefile", "riemann", "sensu", "signalfx", "socket_writer", "sql", "stackdriver", "stomp", "sumologic", "syslog", "timestream",
    "warp10", "wavefront", "websocket", "yandex_cloud_monitoring", "zabbix",
];
