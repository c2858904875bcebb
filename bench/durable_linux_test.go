package bench

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
)

// timed is what each of n calls of f takes, in nanoseconds.
func timed(n int, f func(i int)) float64 {
	start := time.Now()
	for i := range n {
		f(i)
	}
	return float64(time.Since(start)) / float64(n)
}

// x-raw is the time of a pair relative to that of two appends of as many bytes
// to a file, each followed by fdatasync, on the same disk right afterwards.
func BenchmarkW11LockUnlockDurable(b *testing.B) {
	dir := b.TempDir()
	m := open(b, sneck.Options{Dir: filepath.Join(dir, "log")})
	r := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
	before := m.Stats().LogBytes
	b.ReportAllocs()
	for b.Loop() {
		pair(b, m, &r)
	}
	perPair := float64(b.Elapsed()) / float64(b.N)
	record := (m.Stats().LogBytes - before) / int64(2*b.N)

	raw, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	data := make([]byte, record)
	perAppend := timed(2*min(b.N, 5000), func(int) {
		if _, err := raw.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(raw.Fd())); err != nil {
			b.Fatal(err)
		}
	})
	b.ReportMetric(perPair/(2*perAppend), "x-raw")
	b.ReportMetric(float64(record), "B/record")
}
