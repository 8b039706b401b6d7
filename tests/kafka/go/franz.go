package main

import (
	"context"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const franzTopic = "franz-go"

func client(boot string, more ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(boot)}, more...)...)
	check(err)
	return cl
}

func franz(boot string) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cl := client(boot)
	defer cl.Close()
	admin := kadm.NewClient(cl)
	hour := "3600000"
	_, err := admin.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": &hour}, franzTopic)
	check(err)
	_, err = admin.CreateTopic(ctx, 2, 1, nil, franzTopic)
	must(err != nil, "a topic was made twice")
	topics, err := admin.ListTopics(ctx, franzTopic)
	check(err)
	must(len(topics[franzTopic].Partitions) == 2 && topics[franzTopic].ID != kadm.TopicID{}, "topic", topics)
	ok("a topic is made once and listed with its id")
	franzProduce(ctx, boot)
	franzRead(ctx, boot, admin)
	franzGroup(ctx, boot, admin)
	franzAdmin(ctx, admin)
}

func franzProduce(ctx context.Context, boot string) {
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(),
		kgo.Lz4Compression(), kgo.ZstdCompression()}
	value := make([]byte, 100)
	for _, codec := range codecs {
		cl := client(boot, kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		var records []*kgo.Record
		for n := 0; n < 50; n++ {
			header := kgo.RecordHeader{Key: "c", Value: []byte("d")}
			records = append(records, &kgo.Record{Topic: franzTopic, Partition: 0, Key: []byte(strconv.Itoa(n)),
				Value: value, Headers: []kgo.RecordHeader{header}})
		}
		check(cl.ProduceSync(ctx, records...).FirstErr())
		cl.Close()
	}
	ok("every codec, idempotent (the default)")
	cl := client(boot, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for n := 0; n < 100; n++ {
		record := &kgo.Record{Topic: franzTopic, Partition: 1, Value: []byte(strconv.Itoa(n)), Timestamp: time.UnixMilli(int64(1000 + n))}
		check(cl.ProduceSync(ctx, record).FirstErr())
	}
	check(cl.ProduceSync(ctx, &kgo.Record{Topic: franzTopic, Partition: 1, Key: []byte("gone")}).FirstErr())
	cl.Close()
	ok("acks=1, given timestamps, null value")
}

func franzRead(ctx context.Context, boot string, admin *kadm.Client) {
	from := map[string]map[int32]kgo.Offset{franzTopic: {0: kgo.NewOffset().AtStart()}}
	cl := client(boot, kgo.ConsumePartitions(from))
	defer cl.Close()
	next := int64(0)
	for next < 250 {
		fetches := cl.PollFetches(ctx)
		check(fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			must(r.Offset == next && len(r.Headers) == 1, "record", r.Offset, next)
			next++
		})
	}
	ends, err := admin.ListEndOffsets(ctx, franzTopic)
	check(err)
	one, _ := ends.Lookup(franzTopic, 1)
	must(one.Offset == 101, "end", one)
	at, err := admin.ListOffsetsAfterMilli(ctx, 1050, franzTopic)
	check(err)
	one, _ = at.Lookup(franzTopic, 1)
	must(one.Offset == 50, "at a time", one)
	start, err := admin.ListStartOffsets(ctx, franzTopic)
	check(err)
	check(start.Error())
	epochs := kadm.OffsetForLeaderEpochRequest{}
	epochs.Add(franzTopic, 0, 0)
	if apis, err := admin.ApiVersions(ctx); err == nil {
		for _, broker := range apis {
			if _, _, served := broker.KeyVersions(23); served {
				answer, err := admin.OffsetForLeaderEpoch(ctx, epochs)
				check(err)
				must(answer[franzTopic][0].Err == nil, "epoch", answer)
			}
		}
	}
	ok("read back in order; offsets at both ends and for a time")
}

func franzGroup(ctx context.Context, boot string, admin *kadm.Client) {
	options := []kgo.Opt{kgo.ConsumerGroup("franz"), kgo.ConsumeTopics(franzTopic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(500 * time.Millisecond),
		kgo.SessionTimeout(10 * time.Second), kgo.Balancers(kgo.CooperativeStickyBalancer())}
	first, second := client(boot, options...), client(boot, options...)
	poll := func(cl *kgo.Client) {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		cl.PollFetches(short)
	}
	until("two members share two partitions", func() bool {
		poll(first)
		poll(second)
		groups, err := admin.DescribeGroups(ctx, "franz")
		check(err)
		group := groups["franz"]
		assigned := group.AssignedPartitions()
		shared := len(group.Members) == 2 && group.State == "Stable" && len(assigned[franzTopic]) == 2
		for _, member := range group.Members {
			held, isConsumer := member.Assigned.AsConsumer()
			shared = shared && isConsumer && len(held.Topics) == 1 && len(held.Topics[0].Partitions) == 1
		}
		return shared
	})
	listed, err := admin.ListGroups(ctx, "Stable")
	check(err)
	_, there := listed["franz"]
	must(there, "listed by state", listed)
	check(first.CommitUncommittedOffsets(ctx))
	first.Close()
	second.Close()
	ok("cooperative-sticky: two members share the partitions; groups described and listed by state")
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: franzTopic, Partition: 0, At: 7, LeaderEpoch: -1})
	check(admin.CommitAllOffsets(ctx, "franz", offsets))
	fetched, err := admin.FetchOffsets(ctx, "franz")
	check(err)
	zero, _ := fetched.Lookup(franzTopic, 0)
	must(zero.At == 7, "committed", fetched)
	lag, err := admin.Lag(ctx, "franz")
	check(err)
	mine := lag["franz"]
	must(mine.Error() == nil, "lag", lag)
	set := kadm.TopicsSet{}
	set.Add(franzTopic, 0)
	_, err = admin.DeleteOffsets(ctx, "franz", set)
	check(err)
	_, err = admin.DeleteGroup(ctx, "franz")
	check(err)
	ok("offsets committed, read, deleted; lag; group deleted")
}

func franzAdmin(ctx context.Context, admin *kadm.Client) {
	retention := func() string {
		configs, err := admin.DescribeTopicConfigs(ctx, franzTopic)
		check(err)
		for _, config := range configs[0].Configs {
			if config.Key == "retention.ms" {
				return config.MaybeValue()
			}
		}
		return ""
	}
	must(retention() == "3600000", "config", retention())
	two := "7200000"
	altered, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &two}}, franzTopic)
	check(err)
	check(altered[0].Err)
	must(retention() == two, "altered", retention())
	half := "1800000"
	altered, err = admin.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: "retention.ms", Value: &half}}, franzTopic)
	check(err)
	check(altered[0].Err)
	must(retention() == half, "altered as a whole", retention())
	ok("configs described, altered in part and as a whole")
	grown, err := admin.CreatePartitions(ctx, 1, franzTopic)
	check(err)
	check(grown.Error())
	trim := kadm.Offsets{}
	trim.Add(kadm.Offset{Topic: franzTopic, Partition: 0, At: 10})
	trimmed, err := admin.DeleteRecords(ctx, trim)
	check(err)
	zero, _ := trimmed.Lookup(franzTopic, 0)
	must(zero.Err == nil && zero.LowWatermark == 10, "trimmed", trimmed)
	dirs, err := admin.DescribeAllLogDirs(ctx, nil)
	check(err)
	must(len(dirs) == 1, "log directories", dirs)
	for _, broker := range dirs {
		check(broker.Error())
	}
	meta, err := admin.BrokerMetadata(ctx)
	check(err)
	must(len(meta.Brokers) == 1 && meta.Cluster != "", "cluster", meta)
	deleted, err := admin.DeleteTopics(ctx, franzTopic)
	check(err)
	check(deleted.Error())
	ok("partitions added, records deleted, log directories, cluster; topic deleted")
}
