package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"sneck/lock"
)

// account is what the witness knows of who must hold what. It follows from the
// requests alone. It is as naive as can be: lists that are gone through.
type account struct {
	epoch    uint64
	claims   []claim
	opens    []opening
	line     []request // who stands in line, in order
	clients  []lock.Client
	grace    bool
	expected []string // in grace: who held something when it began
	complete []string // in grace: who has said so
}

// claim is a range that is held. It is unconfirmed when it is of an earlier epoch.
type claim struct {
	file  lock.FileKey
	owner lock.Owner
	rng   lock.Range
	mode  lock.Mode
	epoch uint64
}

// opening is a share reservation: of what it may do and what it denies, each by
// itself, when it was reserved or reclaimed last; 0 = not at all.
type opening struct {
	file         lock.FileKey
	owner        lock.Owner
	epoch        uint64 // of the last open
	access, deny [3]uint64
}

var bits = [3]lock.Access{lock.Read, lock.Write, lock.Delete}

// rights are those that are reserved, of epoch from or later.
func rights(epochs [3]uint64, from uint64) (a lock.Access) {
	for i, e := range epochs {
		if e > 0 && e >= from {
			a |= bits[i]
		}
	}
	return a
}

// verdict is one way in which a request may be answered.
type verdict struct {
	err string // name of the sentinel; "" = done
	who string // is in the way, or holds it now; "" = nobody
}

// stands says that there is no answer yet: the request stands in line.
var stands = []verdict{{err: "stands in line"}}

var carriedOut = []verdict{{}}

func refused(name string) []verdict { return []verdict{{err: name}} }

func (a *account) clone() *account {
	b := *a
	b.claims, b.opens, b.line = slices.Clone(a.claims), slices.Clone(a.opens), slices.Clone(a.line)
	b.clients, b.expected, b.complete = slices.Clone(a.clients), slices.Clone(a.expected), slices.Clone(a.complete)
	return &b
}

// apply is what must come of a request: how it may be answered, and whom in line
// it lets in, in the account as the request leaves it.
func (a *account) apply(r request) (vs []verdict, granted []request) {
	vs = a.carryOut(r)
	if a.grace && a.unconfirmed() == 0 {
		a.endGrace()
	}
	return vs, a.handOver()
}

func (a *account) carryOut(r request) []verdict {
	id := r.Client.ID
	switch r.Op {
	case opConnect:
		c := r.Client
		if c.TTL == 0 {
			c.TTL = adapters[c.Adapter].TTL
		}
		a.forget(c.ID)
		a.clients = append(a.clients, c)
	case opDisconnect:
		a.disconnect(id)
	case opTry, opLock:
		hits := a.inTheWay(r)
		switch {
		case len(hits) == 0 && (r.Op == opTry || !a.mustStandBehind(r, a.line)):
			return a.take(r)
		case r.Op == opLock:
			a.line = append(a.line, r)
			return stands
		}
		return a.refusedBy(hits)
	case opUnlock:
		return a.unlock(r)
	case opTest:
		var vs []verdict
		for _, h := range a.inTheWay(r) {
			vs = append(vs, verdict{who: h.say(a.epoch)})
		}
		if len(vs) > 0 {
			return vs
		}
	case opReclaim:
		return a.reclaim(r)
	case opOpenShare, opReclaimShare:
		return a.open(r)
	case opCloseShare:
		i := a.opening(r)
		if i < 0 {
			return refused("ErrNotFound")
		}
		a.opens = slices.Delete(a.opens, i, i+1)
	case opComplete:
		if a.grace && !slices.Contains(a.complete, id) {
			a.complete = append(a.complete, id)
			if !slices.ContainsFunc(a.expected, func(e string) bool { return !slices.Contains(a.complete, e) }) {
				a.endGrace()
			}
		}
	}
	return carriedOut
}

// inTheWay is what keeps r from being held.
func (a *account) inTheWay(r request) (hits []claim) {
	for _, c := range a.claims {
		own := c.owner == r.Owner
		switch {
		case c.file != r.File || !c.rng.Overlaps(r.Range.rng()):
		case own && r.Op == opReclaim:
		case own && r.Owner.Semantics != lock.SMB:
		case own && r.Mode == lock.Shared: // it may stack on an exclusive one
		case c.mode == lock.Shared && r.Mode == lock.Shared:
		default:
			hits = append(hits, c)
		}
	}
	return hits
}

func (a *account) refusedBy(hits []claim) (vs []verdict) {
	for _, h := range hits {
		v := verdict{err: "ErrConflict", who: h.say(a.epoch)}
		if h.epoch < a.epoch {
			v.err = "ErrGrace"
		}
		vs = append(vs, v)
	}
	return vs
}

// mustStandBehind reports whether somebody in line wants what r would keep him
// from.
func (a *account) mustStandBehind(r request, line []request) bool {
	return slices.ContainsFunc(line, func(q request) bool {
		return q.File == r.File && q.Owner != r.Owner && q.Range.rng().Overlaps(r.Range.rng()) && (q.Mode == lock.Exclusive || r.Mode == lock.Exclusive)
	})
}

// take makes r held.
func (a *account) take(r request) []verdict {
	now := claim{r.File, r.Owner, r.Range.rng(), r.Mode, a.epoch}
	if r.Owner.Semantics != lock.SMB {
		a.cut(r)
		// What is left of the owner's, of this mode and epoch, and touches it, becomes
		// one with it.
		a.claims = slices.DeleteFunc(a.claims, func(c claim) bool {
			joins := (touches(c.rng, now.rng) || touches(now.rng, c.rng)) && c.file == now.file && c.owner == now.owner && c.mode == now.mode && c.epoch == now.epoch
			if joins {
				now.rng = extent{min(c.rng.First(), now.rng.First()), max(c.rng.Last(), now.rng.Last()), false}.rng()
			}
			return joins
		})
	}
	a.claims = append(a.claims, now)
	return []verdict{{who: now.say(a.epoch)}}
}

// touches reports whether s begins where r ends.
func touches(r, s lock.Range) bool { return !r.ToEOF() && r.Last()+1 == s.First() }

// cut takes r's bytes from its owner.
func (a *account) cut(r request) {
	var rest []claim
	for _, c := range a.claims {
		if c.file != r.File || c.owner != r.Owner || !c.rng.Overlaps(r.Range.rng()) {
			rest = append(rest, c)
			continue
		}
		was := c
		if was.rng.First() < r.Range.First {
			c.rng = extent{was.rng.First(), r.Range.First - 1, false}.rng()
			rest = append(rest, c)
		}
		if was.rng.Last() > r.Range.Last {
			c.rng = extent{r.Range.Last + 1, was.rng.Last(), false}.rng()
			rest = append(rest, c)
		}
	}
	a.claims = rest
}

func (a *account) unlock(r request) []verdict {
	if r.Owner.Semantics != lock.SMB {
		a.cut(r)
		return carriedOut
	}
	at := -1
	for i, c := range a.claims {
		if c.file == r.File && c.owner == r.Owner && c.rng == r.Range.rng() && (at < 0 || c.mode > a.claims[at].mode) {
			at = i
		}
	}
	if at < 0 {
		return refused("ErrNotFound")
	}
	a.claims = slices.Delete(a.claims, at, at+1)
	return carriedOut
}

// reclaim makes what was held before the restart held again, if it was.
func (a *account) reclaim(r request) []verdict {
	switch {
	case !a.grace:
		return refused("ErrNoGrace")
	case slices.Contains(a.complete, r.Owner.Client):
		return refused("ErrReclaimBad")
	}
	if r.Owner.Semantics == lock.SMB {
		for i := range a.claims {
			if c := &a.claims[i]; c.file == r.File && c.owner == r.Owner && c.rng == r.Range.rng() && c.mode == r.Mode {
				c.epoch = a.epoch
				return []verdict{{who: c.say(a.epoch)}}
			}
		}
		return refused("ErrReclaimBad")
	}
	if !a.covers(r) {
		return refused("ErrReclaimBad")
	}
	return a.take(r)
}

// covers reports whether r's owner holds all of its bytes in its mode or a stronger
// one.
func (a *account) covers(r request) bool {
	for b := r.Range.First; ; b++ {
		i := slices.IndexFunc(a.claims, func(c claim) bool {
			return c.file == r.File && c.owner == r.Owner && c.rng.First() <= b && b <= c.rng.Last() && c.mode >= r.Mode
		})
		if i < 0 {
			return false
		}
		if b = a.claims[i].rng.Last(); b >= r.Range.Last {
			return true
		}
	}
}

func (a *account) opening(r request) int {
	return slices.IndexFunc(a.opens, func(o opening) bool { return o.file == r.File && o.owner == r.Owner })
}

// open makes or reclaims a share reservation.
func (a *account) open(r request) (vs []verdict) {
	at := a.opening(r)
	if r.Op == opReclaimShare {
		switch {
		case !a.grace:
			return refused("ErrNoGrace")
		case slices.Contains(a.complete, r.Owner.Client), at < 0,
			r.Access&^rights(a.opens[at].access, 1) != 0, r.Deny&^rights(a.opens[at].deny, 1) != 0:
			return refused("ErrReclaimBad")
		}
	}
	for _, o := range a.opens {
		collide := func(from uint64) bool {
			return r.Access&rights(o.deny, from) != 0 || r.Deny&rights(o.access, from) != 0
		}
		if o.file != r.File || o.owner == r.Owner || !collide(1) {
			continue
		}
		v := verdict{err: "ErrGrace", who: o.owner.String()}
		if collide(a.epoch) {
			v.err = "ErrConflict"
		}
		vs = append(vs, v)
	}
	if vs != nil {
		return vs
	}
	if at < 0 {
		at = len(a.opens)
		a.opens = append(a.opens, opening{file: r.File, owner: r.Owner})
	}
	o := &a.opens[at]
	o.epoch = a.epoch
	for i, b := range bits {
		if r.Access&b != 0 {
			o.access[i] = a.epoch
		}
		if r.Deny&b != 0 {
			o.deny[i] = a.epoch
		}
	}
	return carriedOut
}

// disconnect takes everything from a client that has no time to come back.
func (a *account) disconnect(id string) {
	if slices.ContainsFunc(a.clients, func(c lock.Client) bool { return c.ID == id && c.TTL > 0 }) {
		return
	}
	a.forget(id)
	a.claims = slices.DeleteFunc(a.claims, func(c claim) bool { return c.owner.Client == id })
	a.opens = slices.DeleteFunc(a.opens, func(o opening) bool { return o.owner.Client == id })
	a.line = slices.DeleteFunc(a.line, func(r request) bool { return r.Owner.Client == id })
}

func (a *account) forget(id string) {
	a.clients = slices.DeleteFunc(a.clients, func(c lock.Client) bool { return c.ID == id })
}

// handOver lets in who stands in line and can be, in order.
func (a *account) handOver() (granted []request) {
	for i := 0; i < len(a.line); {
		r := a.line[i]
		if len(a.inTheWay(r)) > 0 || a.mustStandBehind(r, a.line[:i]) {
			i++
			continue
		}
		a.line = slices.Delete(slices.Clone(a.line), i, i+1)
		a.take(r)
		granted = append(granted, r)
		i = 0
	}
	return granted
}

// restart is what a restart of the server makes of it: nobody stands in line any
// more, and what is held is unconfirmed.
func (a *account) restart(epoch uint64) {
	a.epoch, a.line, a.expected, a.complete = epoch, nil, nil, nil
	for _, c := range a.claims {
		a.expected = append(a.expected, c.owner.Client)
	}
	for _, o := range a.opens {
		a.expected = append(a.expected, o.owner.Client)
	}
	slices.Sort(a.expected)
	a.expected = slices.Compact(a.expected)
	a.grace = len(a.expected) > 0
}

// endGrace takes away what was not reclaimed. Whom that lets in handOver says.
func (a *account) endGrace() {
	a.grace = false
	a.claims = slices.DeleteFunc(a.claims, func(c claim) bool { return c.epoch < a.epoch })
	a.opens = slices.DeleteFunc(a.opens, func(o opening) bool { return o.epoch < a.epoch })
	for i := range a.opens {
		for b := range bits {
			if o := &a.opens[i]; o.access[b] < a.epoch {
				o.access[b] = 0
			}
			if o := &a.opens[i]; o.deny[b] < a.epoch {
				o.deny[b] = 0
			}
		}
	}
}

// unconfirmed counts what was not reclaimed.
func (a *account) unconfirmed() (n int) {
	for _, c := range a.claims {
		if c.epoch < a.epoch {
			n++
		}
	}
	old := func(e uint64) bool { return e > 0 && e < a.epoch }
	for _, o := range a.opens {
		if o.epoch < a.epoch || slices.ContainsFunc(o.access[:], old) || slices.ContainsFunc(o.deny[:], old) {
			n++
		}
	}
	return n
}

// of are the requests by which a client reclaims all that it held, in order: or
// only what it got in that epoch, if one is given.
func (a *account) of(client string, in ...uint64) (rs []request) {
	wanted := func(o lock.Owner, epoch uint64) bool {
		return o.Client == client && (len(in) == 0 || slices.Contains(in, epoch))
	}
	for _, c := range a.claims {
		if wanted(c.owner, c.epoch) {
			rs = append(rs, request{Op: opReclaim, File: c.file, Owner: c.owner, Range: spanOf(c.rng), Mode: c.mode})
		}
	}
	slices.SortFunc(rs, func(r, q request) int {
		return cmp.Or(cmp.Compare(r.File, q.File), cmp.Compare(r.Range.First, q.Range.First), cmp.Compare(r.Range.Last, q.Range.Last), cmp.Compare(r.Mode, q.Mode))
	})
	for _, o := range a.opens {
		if wanted(o.owner, o.epoch) {
			rs = append(rs, request{Op: opReclaimShare, File: o.file, Owner: o.owner, Access: rights(o.access, 1), Deny: rights(o.deny, 1)})
		}
	}
	return rs
}

// say is the claim in words, the same as the server's listing has.
func (c claim) say(epoch uint64) string {
	return sayHeld(held{File: c.file, Owner: c.owner, Range: spanOf(c.rng), Mode: c.mode, Epoch: c.epoch, Unconfirmed: c.epoch < epoch})
}

func sayHeld(h held) string {
	s := fmt.Sprintf("lock on %q: %s holds %s %s of epoch %d", h.File, h.Owner, h.Mode, h.Range.rng(), h.Epoch)
	if h.Unconfirmed {
		s += ", unconfirmed"
	}
	return s
}

func sayShare(f lock.FileKey, o lock.Owner, access, deny lock.Access) string {
	return fmt.Sprintf("share of %q: %s may %s, denies %s", f, o, access, deny)
}

// holdings are all locks and shares, in words.
func (a *account) holdings() (facts []string) {
	for _, c := range a.claims {
		facts = append(facts, c.say(a.epoch))
	}
	for _, o := range a.opens {
		facts = append(facts, sayShare(o.file, o.owner, rights(o.access, 1), rights(o.deny, 1)))
	}
	return facts
}

// facts are everything that the server must list, in words.
func (a *account) facts() (facts []string) {
	facts = a.holdings()
	for _, r := range a.line {
		facts = append(facts, "waits: "+r.String())
	}
	for _, c := range a.clients {
		facts = append(facts, sayClient(c))
	}
	return append(facts, sayGrace(a.grace, a.expected, a.complete, a.unconfirmed()), fmt.Sprint("epoch ", a.epoch))
}

func sayClient(c lock.Client) string {
	return fmt.Sprintf("client %s of %s at %s, TTL %v", c.ID, c.Adapter, c.Addr, c.TTL)
}

func sayGrace(active bool, expected, complete []string, unconfirmed int) string {
	if !active {
		return fmt.Sprintf("no grace, %d unconfirmed", unconfirmed)
	}
	complete = slices.Clone(complete)
	slices.Sort(complete)
	return fmt.Sprintf("grace: expected %v, complete %v, %d unconfirmed", expected, complete, unconfirmed)
}

// differences are what is in only one of two lists.
func differences(got, want []string) string {
	var b strings.Builder
	without := func(sign string, list, other []string) {
		other = slices.Clone(other)
		for _, f := range list {
			if i := slices.Index(other, f); i >= 0 {
				other = slices.Delete(other, i, i+1)
				continue
			}
			fmt.Fprintf(&b, "\n\t%s %s", sign, f)
		}
	}
	without("lists, and must not:", got, want)
	without("must list, and does not:", want, got)
	return b.String()
}
