package main

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// load writes records until the file stop exists, and a history of them as tests/cluster/load.py describes it.
type load struct {
	boot, topic, name, stop string
	partitions              int32
	lock                    sync.Mutex
	out                     *os.File
}

// newLoad takes BOOTSTRAP TOPIC PARTITIONS GROUP NAME STOP HISTORY.
func newLoad(args []string) *load {
	partitions, err := strconv.Atoi(args[2])
	check(err)
	out, err := os.Create(args[6])
	check(err)
	return &load{boot: args[0], topic: args[1], partitions: int32(partitions), name: args[4], stop: args[5], out: out}
}

func (l *load) report(number int, partition int32, offset int64, err error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if err != nil {
		fmt.Println(l.name, number, err)
		fmt.Fprintf(l.out, "O %d %d\n", number, partition)
		return
	}
	fmt.Fprintf(l.out, "A %d %d %d\n", number, partition, offset)
}

// each calls send with a number, a partition and a value, again and again.
func (l *load) each(send func(number int, partition int32, value string)) {
	for number := 0; ; number++ {
		if _, err := os.Stat(l.stop); err == nil {
			return
		}
		value := fmt.Sprintf("%s:%d:%s", l.name, number, strings.Repeat("abcdefghij", number%60))
		send(number, rand.Int31n(l.partitions), value)
		time.Sleep(time.Duration(rand.Intn(4)) * time.Millisecond)
	}
}

func franzLoad(args []string) {
	l := newLoad(args)
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(l.boot, ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(5*time.Millisecond), kgo.RecordDeliveryTimeout(5*time.Minute))
	check(err)
	ctx := context.Background()
	l.each(func(number int, partition int32, value string) {
		record := &kgo.Record{Topic: l.topic, Partition: partition, Key: []byte(l.name), Value: []byte(value)}
		cl.Produce(ctx, record, func(r *kgo.Record, err error) { l.report(number, partition, r.Offset, err) })
	})
	check(cl.Flush(ctx))
	cl.Close()
}

func saramaLoad(args []string) {
	l := newLoad(args)
	config := saramaConfig()
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Producer.Retry.Max = 1000
	config.Producer.Retry.Backoff = 50 * time.Millisecond
	config.Metadata.Retry.Max = 100
	config.Net.DialTimeout = 2 * time.Second
	config.Net.ReadTimeout = 5 * time.Second
	producer, err := sarama.NewAsyncProducer(strings.Split(l.boot, ","), config)
	check(err)
	var done sync.WaitGroup
	done.Add(2)
	go func() {
		defer done.Done()
		for message := range producer.Successes() {
			l.report(message.Metadata.(int), message.Partition, message.Offset, nil)
		}
	}()
	go func() {
		defer done.Done()
		for failed := range producer.Errors() {
			l.report(failed.Msg.Metadata.(int), failed.Msg.Partition, 0, failed.Err)
		}
	}()
	l.each(func(number int, partition int32, value string) {
		producer.Input() <- &sarama.ProducerMessage{Topic: l.topic, Partition: partition, Metadata: number,
			Key: sarama.StringEncoder(l.name), Value: sarama.StringEncoder(value)}
	})
	producer.AsyncClose()
	done.Wait()
}
