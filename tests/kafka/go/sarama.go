package main

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

const saramaTopic = "sarama"

func saramaConfig() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Return.Successes = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	config.Consumer.Group.Session.Timeout = 10 * time.Second
	return config
}

func saramaAll(boot string) {
	brokers := []string{boot}
	admin, err := sarama.NewClusterAdmin(brokers, saramaConfig())
	check(err)
	defer admin.Close()
	hour := "3600000"
	detail := &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &hour}}
	check(admin.CreateTopic(saramaTopic, detail, false))
	must(admin.CreateTopic(saramaTopic, detail, false) != nil, "a topic was made twice")
	topics, err := admin.ListTopics()
	check(err)
	must(topics[saramaTopic].NumPartitions == 2, "listed", topics)
	ok("a topic is made once and listed")
	saramaProduce(brokers)
	saramaRead(brokers)
	saramaGroup(brokers, admin)
	saramaAdmin(admin)
}

func saramaProduce(brokers []string) {
	value := sarama.ByteEncoder(make([]byte, 100))
	codecs := []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy,
		sarama.CompressionLZ4, sarama.CompressionZSTD}
	// The default profile (2.8's versions) and the newest versions.
	for _, version := range []sarama.KafkaVersion{sarama.DefaultVersion, sarama.MaxVersion} {
		for _, codec := range codecs {
			config := saramaConfig()
			config.Version = version
			config.Producer.Compression = codec
			producer, err := sarama.NewSyncProducer(brokers, config)
			check(err)
			var messages []*sarama.ProducerMessage
			for n := 0; n < 25; n++ {
				messages = append(messages, &sarama.ProducerMessage{Topic: saramaTopic, Partition: 0, Value: value,
					Key: sarama.StringEncoder(strconv.Itoa(n)), Headers: []sarama.RecordHeader{{Key: []byte("c"), Value: []byte("d")}}})
			}
			check(producer.SendMessages(messages))
			check(producer.Close())
		}
	}
	ok("every codec, acks=all, in the default and the newest versions")
	config := saramaConfig()
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	producer, err := sarama.NewSyncProducer(brokers, config)
	check(err)
	for n := 0; n < 101; n++ {
		message := &sarama.ProducerMessage{Topic: saramaTopic, Partition: 1, Timestamp: time.UnixMilli(int64(1000 + n))}
		if n < 100 {
			message.Value = sarama.StringEncoder(strconv.Itoa(n))
		}
		_, offset, err := producer.SendMessage(message)
		check(err)
		must(offset == int64(n), "offset", offset, n)
	}
	check(producer.Close())
	ok("idempotent producer, given timestamps, null value")
}

func saramaRead(brokers []string) {
	cl, err := sarama.NewClient(brokers, saramaConfig())
	check(err)
	consumer, err := sarama.NewConsumerFromClient(cl)
	check(err)
	reader, err := consumer.ConsumePartition(saramaTopic, 0, sarama.OffsetOldest)
	check(err)
	for n := int64(0); n < 250; n++ {
		select {
		case message := <-reader.Messages():
			must(message.Offset == n && len(message.Headers) == 1, "record", message.Offset, n)
		case <-time.After(20 * time.Second):
			panic("no record")
		}
	}
	check(reader.Close())
	end, err := cl.GetOffset(saramaTopic, 1, sarama.OffsetNewest)
	check(err)
	at, err := cl.GetOffset(saramaTopic, 1, 1050)
	check(err)
	must(end == 101 && at == 50, "offsets", end, at)
	check(consumer.Close())
	check(cl.Close())
	ok("read back in order; end offset, offset for a time")
}

type sharer struct {
	mutex    sync.Mutex
	assigned int
}

func (s *sharer) Setup(session sarama.ConsumerGroupSession) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.assigned = len(session.Claims()[saramaTopic])
	return nil
}
func (s *sharer) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (s *sharer) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		session.MarkMessage(message, "")
	}
	session.Commit()
	return nil
}
func (s *sharer) held() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.assigned
}

func saramaGroup(brokers []string, admin sarama.ClusterAdmin) {
	ctx, cancel := context.WithCancel(context.Background())
	members := []*sharer{{}, {}}
	var running sync.WaitGroup
	for _, member := range members {
		group, err := sarama.NewConsumerGroup(brokers, "sarama", saramaConfig())
		check(err)
		running.Add(1)
		go func() {
			defer running.Done()
			for ctx.Err() == nil {
				check(group.Consume(ctx, []string{saramaTopic}, member))
			}
			check(group.Close())
		}()
	}
	until("two members share two partitions", func() bool { return members[0].held() == 1 && members[1].held() == 1 })
	groups, err := admin.DescribeConsumerGroups([]string{"sarama"})
	check(err)
	must(groups[0].State == "Stable" && len(groups[0].Members) == 2, "described", groups[0])
	listed, err := admin.ListConsumerGroups()
	check(err)
	must(listed["sarama"] == "consumer", "listed", listed)
	time.Sleep(500 * time.Millisecond)
	cancel()
	running.Wait()
	offsets, err := admin.ListConsumerGroupOffsets("sarama", map[string][]int32{saramaTopic: {0, 1}})
	check(err)
	block := offsets.GetBlock(saramaTopic, 1)
	must(block.Offset == 101, "committed", block)
	check(admin.DeleteConsumerGroupOffset("sarama", saramaTopic, 0))
	check(admin.DeleteConsumerGroup("sarama"))
	ok("two members share the partitions and commit; group described, listed, its offsets deleted, deleted")
}

func saramaAdmin(admin sarama.ClusterAdmin) {
	resource := sarama.ConfigResource{Type: sarama.TopicResource, Name: saramaTopic, ConfigNames: []string{"retention.ms"}}
	retention := func() string {
		entries, err := admin.DescribeConfig(resource)
		check(err)
		return entries[0].Value
	}
	must(retention() == "3600000", "config", retention())
	two, half := "7200000", "1800000"
	entry := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &two}
	check(admin.IncrementalAlterConfig(sarama.TopicResource, saramaTopic, map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": entry}, false))
	must(retention() == two, "altered", retention())
	check(admin.AlterConfig(sarama.TopicResource, saramaTopic, map[string]*string{"retention.ms": &half}, false))
	must(retention() == half, "altered as a whole", retention())
	check(admin.CreatePartitions(saramaTopic, 3, nil, false))
	check(admin.DeleteRecords(saramaTopic, map[int32]int64{0: 10}))
	brokers, _, err := admin.DescribeCluster()
	check(err)
	dirs, err := admin.DescribeLogDirs([]int32{brokers[0].ID()})
	check(err)
	must(len(dirs) == 1, "log directories", dirs)
	check(admin.DeleteTopic(saramaTopic))
	ok("configs, partitions added, records deleted, cluster, log directories, topic deleted")
}
