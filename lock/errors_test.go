package lock

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var sentinels = []error{
	ErrConflict, ErrDeadlock, ErrNotFound, ErrRange, ErrInvalid, ErrGrace, ErrNoGrace, ErrReclaimBad, ErrLimit,
	ErrConnectionLimit, ErrUnknownClient, ErrRevoked, ErrCanceled, ErrReleased, ErrHalted, ErrClosed,
}

// Each typed error is exactly one sentinel, through any wrapping, keeps its
// data, and says in its text what, where and why.
func TestErrorsMatchOneSentinel(t *testing.T) {
	o := Owner{Client: "host", ID: "7", Semantics: POSIX}
	r := Request{File: "f", Owner: o, Range: span(0, 9), Mode: Exclusive}
	h := Held{File: "f", Owner: Owner{Client: "other", ID: "8", Semantics: SMB}, Range: span(5, 6), Mode: Shared}
	for _, tc := range []struct {
		err  error
		is   error
		says []string
	}{
		{&ConflictError{Request: r, Holder: h}, ErrConflict, []string{"exclusive", "[0,9]", `"f"`, "other", "shared", "[5,6]"}},
		{&ConflictError{Request: r, ShareHolder: &Share{Owner: h.Owner, Access: Read | Delete, Deny: Write}}, ErrConflict, []string{`opening "f"`, "host", "other", "open for read+delete", "denies write"}},
		{&DeadlockError{Cycle: []Owner{o, h.Owner}}, ErrDeadlock, []string{"host", "other"}},
		{&GraceError{Holder: h, Remaining: 3 * time.Second}, ErrGrace, []string{"other", "[5,6]", "3s"}},
		{&LimitError{What: "locks per file", Limit: 10}, ErrLimit, []string{"locks per file", "10"}},
		{&LimitError{What: LimitConnections, Limit: 10}, ErrConnectionLimit, []string{"connections", "10"}},
		{&RangeError{Protocol: "nfs4", Start: 1, Arg: 0, Reason: "the length is zero"}, ErrRange, []string{"nfs4", "(1, 0)", "zero"}},
		{&RangeError{Protocol: "posix", Start: 1<<64 - 1, Arg: 5, Signed: true, Reason: "why"}, ErrRange, []string{"(-1, 5)", "why"}},
		{&InvalidError{Field: "Mode", Reason: "why"}, ErrInvalid, []string{"Mode", "why"}},
		{&NotFoundError{File: "f", Owner: o, Range: span(1, 2)}, ErrNotFound, []string{"host", "[1,2]", `"f"`}},
	} {
		wrapped := fmt.Errorf("outer: %w", errors.Join(errors.New("beside"), fmt.Errorf("inner: %w", tc.err)))
		for _, s := range sentinels {
			if got, want := errors.Is(wrapped, s), s.Error() == tc.is.Error(); got != want {
				t.Errorf("%v is %q: %v", tc.err, s, got)
			}
		}
		target := reflect.New(reflect.TypeOf(tc.err))
		if !errors.As(wrapped, target.Interface()) || !reflect.DeepEqual(target.Elem().Interface(), tc.err) {
			t.Errorf("errors.As does not find %T", tc.err)
		}
		for _, part := range tc.says {
			if !strings.Contains(tc.err.Error(), part) {
				t.Errorf("%q does not say %q", tc.err, part)
			}
		}
	}
	for i, s := range sentinels {
		for j, u := range sentinels {
			if errors.Is(fmt.Errorf("a: %w", fmt.Errorf("b: %w", s)), u) != (i == j) {
				t.Errorf("%q and %q", s, u)
			}
		}
	}
}

// What is not valid is refused with the field that is at fault.
func TestValidate(t *testing.T) {
	good := Request{File: "f", Owner: Owner{Client: "c", ID: "i", Semantics: SMB}, Range: WholeFile(), Mode: Shared}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	empty, _ := SMBRange(3, 0)
	long := strings.Repeat("x", MaxOwnerField+1)
	for _, tc := range []struct {
		name   string
		change func(*Request)
		is     error
		field  string
	}{
		{"no file", func(r *Request) { r.File = "" }, ErrInvalid, "File"},
		{"long file", func(r *Request) { r.File = FileKey(strings.Repeat("x", MaxFileKey+1)) }, ErrInvalid, "File"},
		{"longest file", func(r *Request) { r.File = FileKey(strings.Repeat("x", MaxFileKey)) }, nil, ""},
		{"no semantics", func(r *Request) { r.Owner.Semantics = 0 }, ErrInvalid, "Owner.Semantics"},
		{"unknown semantics", func(r *Request) { r.Owner.Semantics = SMB + 1 }, ErrInvalid, "Owner.Semantics"},
		{"long client", func(r *Request) { r.Owner.Client = long }, ErrInvalid, "Owner.Client"},
		{"long id", func(r *Request) { r.Owner.ID = long }, ErrInvalid, "Owner.ID"},
		{"long share", func(r *Request) { r.Owner.Share = long }, ErrInvalid, "Owner.Share"},
		{"opaque bytes", func(r *Request) { r.Owner.ID, r.File = "\x00\xff", "\x00" }, nil, ""},
		{"no mode", func(r *Request) { r.Mode = 0 }, ErrInvalid, "Mode"},
		{"unknown mode", func(r *Request) { r.Mode = 3 }, ErrInvalid, "Mode"},
		{"zero length", func(r *Request) { r.Range = empty }, nil, ""},
		{"zero length of POSIX", func(r *Request) { r.Range, r.Owner.Semantics = empty, POSIX }, ErrRange, ""},
	} {
		r := good
		tc.change(&r)
		err := r.Validate()
		if tc.is == nil && err != nil || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", tc.name, err)
		}
		var e *InvalidError
		if tc.field != "" && (!errors.As(err, &e) || e.Field != tc.field || e.Reason == "") {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// Two owners are the same iff Client, ID and Semantics are equal.
func TestOwnerSame(t *testing.T) {
	o := Owner{Client: "c", ID: "i", Semantics: POSIX, Share: "s", PID: 1}
	for _, tc := range []struct {
		p    Owner
		want bool
	}{
		{o, true}, {Owner{Client: "c", ID: "i", Semantics: POSIX, Share: "other", PID: 2}, true},
		{Owner{Client: "d", ID: "i", Semantics: POSIX}, false}, {Owner{Client: "c", ID: "j", Semantics: POSIX}, false},
		{Owner{Client: "c", ID: "i", Semantics: OFD}, false}, {Owner{Client: "ci", Semantics: POSIX}, false},
	} {
		if o.Same(tc.p) != tc.want || tc.p.Same(o) != tc.want {
			t.Errorf("%v and %v: want %v", o, tc.p, tc.want)
		}
	}
}

func TestFilterMatch(t *testing.T) {
	o := Owner{Client: "c", ID: "i", Semantics: POSIX, Share: "s"}
	p := Owner{Client: "c", ID: "j", Semantics: POSIX}
	for _, tc := range []struct {
		q    Filter
		want bool
	}{
		{Filter{}, true}, {Filter{File: "f"}, true}, {Filter{File: "g"}, false}, {Filter{Client: "c"}, true},
		{Filter{Client: "d"}, false}, {Filter{Owner: &o}, true}, {Filter{Owner: &p}, false}, {Filter{Share: "s"}, true},
		{Filter{Share: "t"}, false}, {Filter{File: "f", Client: "c", Owner: &o, Share: "s"}, true},
		{Filter{File: "f", Client: "c", Owner: &o, Share: "t"}, false},
	} {
		if got := tc.q.Match("f", o); got != tc.want {
			t.Errorf("%+v: %v", tc.q, got)
		}
	}
}

func TestModeConflicts(t *testing.T) {
	if Shared.Conflicts(Shared) || !Shared.Conflicts(Exclusive) || !Exclusive.Conflicts(Shared) || !Exclusive.Conflicts(Exclusive) {
		t.Error("wrong table")
	}
}
