// franz-go and sarama: CLIENT BOOTSTRAP. Prints `ok` and what was checked, one line each; any other end is a failure.
// CLIENT-load, with the arguments of newLoad, writes records with a history.
package main

import (
	"fmt"
	"os"
	"time"
)

func ok(what string) { fmt.Println("ok", what) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must(holds bool, what string, facts ...any) {
	if !holds {
		panic(fmt.Sprintf("%s: %v", what, facts))
	}
}

func until(what string, done func() bool) {
	deadline := time.Now().Add(40 * time.Second)
	for !done() {
		must(time.Now().Before(deadline), what)
		time.Sleep(50 * time.Millisecond)
	}
}

func main() {
	switch os.Args[1] {
	case "franz":
		franz(os.Args[2])
	case "sarama":
		saramaAll(os.Args[2])
	case "franz-load":
		franzLoad(os.Args[2:])
	case "sarama-load":
		saramaLoad(os.Args[2:])
	}
}
