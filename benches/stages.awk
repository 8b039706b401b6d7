# Where a broker's processor time goes, by the stages of benches/README.md, from a profile with call chains:
#
#     perf record --call-graph dwarf,16384 -F 500 -p PID -- sleep 5
#     perf script -F comm,tid,ip,sym --no-inline | awk -f benches/stages.awk
#
# A sample belongs to the first stage found from the innermost frame outwards; a write in the kernel to whoever's it is.
BEGIN {
    n = split("write (kernel)|receive|send|crc|journal: copy|journal: growth|journal: rest|write-back: copy|" \
        "apply|agree (openraft)|propose|request and answer|checkpoint|sleep and wake|executor", names, "|")
    split("iomap_dio_rw|blk_finish_plug|virtblk_|io_write$;Stream::poll_append|Stream::poll_read|FrameBuffer|yolo_recv;" \
        "Outbox::poll_flush|Stream::poll_write|yolo_send;verify_crc;Filling::push_entry|LaneLog::append;Spare::create;" \
        "tidewater_storage::journal::;write_back;DataLane as|PartitionLog>::append|sm::worker|Standing::apply;openraft::|tidewater::raft::;" \
        "proposer::;tidewater::kafka::;checkpoint;membarrier|schedule$|link_rings_and_sleep|io_cqring_wait;" \
        "glommio::(sys|parking|executor|reactor|task)|uring", patterns, ";")
}
function settle(    i) {
    if (thread ~ /^shard-/) {
        all++
        for (i = 1; i <= n; i++) if (stage == i) { count[i]++; break }
        if (!stage) other++
    }
    stage = 0; thread = ""
}
NF == 0 { if (thread != "") settle(); next }
/^[^ \t]/ { thread = $1; next }
!stage { for (i = 1; i <= n; i++) if ($0 ~ patterns[i]) { stage = i; break } }
END {
    if (thread != "") settle()
    if (!all) { print "no samples of shard threads"; exit 1 }
    for (i = 1; i <= n; i++) printf "%5.1f %%  %s\n", 100 * count[i] / all, names[i]
    printf "%5.1f %%  other, of %d samples\n", 100 * other / all, all
}
