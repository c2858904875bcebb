package wal

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const benchBody = text("a body of the size that a transition has, give or take: file key, owner, range, mode, id, epoch...")

// BenchmarkDurable is one durable record per operation and caller, who writes
// himself if nobody else does, as Wait has it, or leaves that to the log's
// goroutine.
func BenchmarkDurable(b *testing.B) {
	for _, callers := range []int{1, 256} {
		for _, handOff := range []bool{false, true} {
			b.Run(fmt.Sprintf("callers=%d/hand-off=%v", callers, handOff), func(b *testing.B) { durable(b, callers, handOff) })
		}
	}
}

func durable(b *testing.B, callers int, handOff bool) {
	l := mustOpen(b, b.TempDir(), Options{})
	b.ReportAllocs()
	one := func() {
		r := l.NewRecord(nil, KindFile, benchBody)
		if handOff {
			submit(l, r)
			<-r.Done()
		}
		if err := l.Wait(r); err != nil {
			b.Error(err)
		}
	}
	b.ResetTimer()
	if callers == 1 {
		for b.Loop() {
			one()
		}
	} else {
		b.SetParallelism(callers / runtime.GOMAXPROCS(0))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				one()
			}
		})
	}
	b.StopTimer()
	st := l.Stats()
	b.ReportMetric(float64(st.Records)/float64(st.Syncs), "records/sync")
	b.ReportMetric(float64(st.Records)/b.Elapsed().Seconds(), "records/s")
	mustClose(b, l)
}

// BenchmarkRawAppend is the floor of BenchmarkDurable with one caller: the same
// bytes, appended and synced by the benchmark itself.
func BenchmarkRawAppend(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	data := entry(1, 0, string(benchBody))
	for b.Loop() {
		if _, err := f.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkReplay reads a log of full frames; the operation is one record.
func BenchmarkReplay(b *testing.B) {
	const records = 500_000
	dir := b.TempDir()
	l := mustOpen(b, dir, Options{})
	group(b, l, strings.Split(strings.Repeat(string(benchBody)+"\n", records), "\n")...)
	mustClose(b, l)
	b.ResetTimer()
	n := 0
	for n < b.N {
		if _, err := Read(dir, func(Entry) error { n++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(n), "ns/record")
}
