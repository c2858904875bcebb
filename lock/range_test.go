package lock

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

const (
	maxU = math.MaxUint64
	maxI = math.MaxInt64
	minI = math.MinInt64
)

func shown(r Range, err error) string {
	if err != nil {
		var e *RangeError
		if !errors.Is(err, ErrRange) || !errors.As(err, &e) {
			return "not a RangeError: " + err.Error()
		}
		if e.Overflow {
			return "overflow"
		}
		return "refused"
	}
	return r.String()
}

// POSIX fcntl: length 0 is to end of file, a negative one the bytes before the
// start; before byte 0 is EINVAL, past the largest offset EOVERFLOW.
func TestPOSIXRange(t *testing.T) {
	for _, tc := range []struct {
		start, length int64
		want          string
	}{
		{0, 0, "[0,EOF]"}, {0, 1, "[0,0]"}, {0, 100, "[0,99]"}, {5, 0, "[5,EOF]"}, {7, 1, "[7,7]"},
		{0, maxI, fmt.Sprintf("[0,%d]", maxI-1)},
		{1, maxI, "[1,EOF]"}, // the largest offset is the end of every file
		{2, maxI, "overflow"},
		{maxI, 0, fmt.Sprintf("[%d,EOF]", maxI)},
		{maxI, 1, fmt.Sprintf("[%d,EOF]", maxI)},
		{maxI, 2, "overflow"}, {maxI, maxI, "overflow"},
		{maxI - 1, 1, fmt.Sprintf("[%d,%d]", maxI-1, maxI-1)},
		{10, -1, "[9,9]"}, {10, -10, "[0,9]"}, {10, -11, "refused"}, {0, -1, "refused"}, {1, -1, "[0,0]"},
		{maxI, -maxI, fmt.Sprintf("[0,%d]", maxI-1)}, {maxI, minI, "refused"}, {0, minI, "refused"},
		{-1, 0, "refused"}, {-1, 10, "refused"}, {minI, minI, "refused"}, {minI, maxI, "refused"},
	} {
		if got := shown(POSIXRange(tc.start, tc.length)); got != tc.want {
			t.Errorf("POSIXRange(%d, %d) = %s, want %s", tc.start, tc.length, got, tc.want)
		}
	}
}

// The constructors of the unsigned protocols at every boundary.
func TestUnsignedRanges(t *testing.T) {
	const half = 1 << 63
	for _, tc := range []struct {
		a, b                         uint64
		bytes, nlm4, nfs4, smb, fuse string
	}{
		{0, 0, "[0,0]", "[0,EOF]", "refused", "[0,empty]", "[0,0]"},
		{0, 1, "[0,1]", "[0,0]", "[0,0]", "[0,0]", "[0,1]"},
		{1, 0, "refused", "[1,EOF]", "refused", "[1,empty]", "refused"},
		{1, 1, "[1,1]", "[1,1]", "[1,1]", "[1,1]", "[1,1]"},
		{0, maxI, "[0,9223372036854775807]", "[0,9223372036854775806]", "[0,9223372036854775806]", "[0,9223372036854775806]", "[0,EOF]"},
		{maxI, maxI, "[9223372036854775807,9223372036854775807]", "[9223372036854775807,18446744073709551613]",
			"[9223372036854775807,18446744073709551613]", "[9223372036854775807,18446744073709551613]", "[9223372036854775807,EOF]"},
		{0, half, "[0,9223372036854775808]", "[0,9223372036854775807]", "[0,9223372036854775807]", "[0,9223372036854775807]", "refused"},
		{half, half - 1, "refused", "[9223372036854775808,18446744073709551614]", "[9223372036854775808,18446744073709551614]",
			"[9223372036854775808,18446744073709551614]", "refused"},
		{half, half, "[9223372036854775808,9223372036854775808]", "[9223372036854775808,EOF]", "overflow", "[9223372036854775808,EOF]", "refused"},
		{half, half + 1, "[9223372036854775808,9223372036854775809]", "overflow", "overflow", "overflow", "refused"},
		{0, maxU, "[0,EOF]", "[0,18446744073709551614]", "[0,EOF]", "[0,18446744073709551614]", "refused"},
		{1, maxU, "[1,EOF]", "[1,EOF]", "[1,EOF]", "[1,EOF]", "refused"},
		{2, maxU, "[2,EOF]", "overflow", "[2,EOF]", "overflow", "refused"},
		{maxU, 0, "refused", "[18446744073709551615,EOF]", "refused", "[18446744073709551615,empty]", "refused"},
		{maxU, 1, "refused", "[18446744073709551615,EOF]", "overflow", "[18446744073709551615,EOF]", "refused"},
		{maxU, 2, "refused", "overflow", "overflow", "overflow", "refused"},
		{maxU, maxU, "[18446744073709551615,EOF]", "overflow", "[18446744073709551615,EOF]", "overflow", "refused"},
		{maxU - 1, 1, "refused", "[18446744073709551614,18446744073709551614]", "[18446744073709551614,18446744073709551614]",
			"[18446744073709551614,18446744073709551614]", "refused"},
		{maxU - 1, 2, "refused", "[18446744073709551614,EOF]", "overflow", "[18446744073709551614,EOF]", "refused"},
	} {
		for _, c := range []struct {
			name, want string
			make       func(uint64, uint64) (Range, error)
		}{
			{"Bytes", tc.bytes, Bytes}, {"NLM4Range", tc.nlm4, NLM4Range}, {"NFS4Range", tc.nfs4, NFS4Range},
			{"SMBRange", tc.smb, SMBRange}, {"FUSERange", tc.fuse, FUSERange},
		} {
			if got := shown(c.make(tc.a, tc.b)); got != c.want {
				t.Errorf("%s(%d, %d) = %s, want %s", c.name, tc.a, tc.b, got, c.want)
			}
		}
	}
}

// Each constructor against arithmetic without bounds.
func TestRangesAgainstBigInt(t *testing.T) {
	big64 := func(n uint64) *big.Int { return new(big.Int).SetUint64(n) }
	edges := []uint64{0, 1, 2, maxI - 1, maxI, maxI + 1, maxI + 2, maxU - 2, maxU - 1, maxU}
	draw := func(rt *rapid.T, name string) uint64 {
		return rapid.OneOf(rapid.SampledFrom(edges), rapid.Uint64()).Draw(rt, name)
	}
	rapid.Check(t, func(rt *rapid.T) {
		off, length := draw(rt, "offset"), draw(rt, "length")
		sum := new(big.Int).Add(big64(off), big64(length)) // one past the last byte
		for _, c := range []struct {
			name  string
			make  func(uint64, uint64) (Range, error)
			eof   bool
			empty bool
			none  bool
			most  *big.Int // of the sum
		}{
			{"nlm4", NLM4Range, length == 0, false, false, new(big.Int).Lsh(big.NewInt(1), 64)},
			{"nfs4", NFS4Range, length == maxU, false, length == 0, big64(maxU)},
			{"smb", SMBRange, false, length == 0, false, new(big.Int).Lsh(big.NewInt(1), 64)},
		} {
			r, err := c.make(off, length)
			valid := c.eof || c.empty || !c.none && sum.Cmp(c.most) <= 0
			if (err == nil) != valid {
				rt.Fatalf("%s(%d, %d): %v", c.name, off, length, err)
			}
			if err != nil {
				continue
			}
			if r.First() != off || r.IsEmpty() != c.empty || c.eof && !r.ToEOF() {
				rt.Fatalf("%s(%d, %d) = %v", c.name, off, length, r)
			}
			if !c.eof && !c.empty {
				if past := new(big.Int).Add(big64(r.Last()), big.NewInt(1)); past.Cmp(sum) != 0 {
					rt.Fatalf("%s(%d, %d) = %v", c.name, off, length, r)
				}
			}
		}
		start, signed := int64(off), int64(length)
		first, past := big.NewInt(start), new(big.Int).Add(big.NewInt(start), big.NewInt(signed))
		if signed < 0 {
			first, past = past, first
		}
		r, err := POSIXRange(start, signed)
		valid := start >= 0 && first.Sign() >= 0 && past.Cmp(new(big.Int).Lsh(big.NewInt(1), 63)) <= 0
		if (err == nil) != valid {
			rt.Fatalf("POSIXRange(%d, %d): %v", start, signed, err)
		}
		if err == nil {
			last := new(big.Int).Sub(past, big.NewInt(1))
			eof := signed == 0 || last.Cmp(big.NewInt(maxI)) == 0
			if big64(r.First()).Cmp(first) != 0 || r.ToEOF() != eof || !eof && big64(r.Last()).Cmp(last) != 0 {
				rt.Fatalf("POSIXRange(%d, %d) = %v", start, signed, r)
			}
		}
	})
}

// A range that nobody set locks too much rather than too little.
func TestZeroRangeIsTheWholeFile(t *testing.T) {
	var r Range
	if r != WholeFile() || r.First() != 0 || r.Last() != maxU || !r.ToEOF() || r.IsEmpty() || r.String() != "[0,EOF]" {
		t.Errorf("%v", r)
	}
}

// MS-FSA 2.1.4.10: a zero-length range at x overlaps what has both the byte
// before x and the byte at x; nothing at 0, and not another one.
func TestOverlaps(t *testing.T) {
	var all []Range
	for _, base := range []uint64{0, maxU - 5} {
		for a := range uint64(6) {
			e, _ := SMBRange(base+a, 0)
			all = append(all, e)
			for b := a; b < 6; b++ {
				r, err := Bytes(base+a, base+b)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, r)
			}
		}
	}
	has := func(r Range, b uint64) bool { return r.First() <= b && b <= r.Last() }
	for _, r := range all {
		for _, s := range all {
			want := false
			switch {
			case r.IsEmpty() && s.IsEmpty():
			case r.IsEmpty():
				want = r.First() > 0 && has(s, r.First()-1) && has(s, r.First())
			case s.IsEmpty():
				want = s.First() > 0 && has(r, s.First()-1) && has(r, s.First())
			default:
				for _, base := range []uint64{0, maxU - 5} {
					for b := range uint64(6) {
						want = want || has(r, base+b) && has(s, base+b)
					}
				}
			}
			if got := r.Overlaps(s); got != want {
				t.Errorf("%v overlaps %v: %v", r, s, got)
			}
			contains := !r.IsEmpty() && !s.IsEmpty() && r.First() <= s.First() && s.Last() <= r.Last()
			if got := r.Contains(s); got != contains {
				t.Errorf("%v contains %v: %v", r, s, got)
			}
		}
	}
}

func TestRangeString(t *testing.T) {
	empty, _ := SMBRange(7, 0)
	for _, tc := range []struct {
		r    Range
		want string
	}{{span(0, 99), "[0,99]"}, {span(100, maxU), "[100,EOF]"}, {empty, "[7,empty]"}} {
		if got := tc.r.String(); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

// Only SMB knows zero-length ranges.
func TestRangeValidFor(t *testing.T) {
	empty, _ := SMBRange(7, 0)
	for s := POSIX; s <= SMB; s++ {
		if err := WholeFile().ValidFor(s); err != nil {
			t.Error(err)
		}
		if err := empty.ValidFor(s); (err == nil) != (s == SMB) || err != nil && !errors.Is(err, ErrRange) {
			t.Errorf("%v: %v", s, err)
		}
	}
}
