package shard

import (
	"encoding/binary"
	"errors"
	"fmt"

	"sneck/interval"
	"sneck/lock"
)

// Snapshot calls emit with a record of every file on which something is held.
// It walks the cells while traffic goes on: each record is the state of its file
// at a moment of its own, somewhere between the begin and the end of the walk.
//
// What makes such a snapshot usable together with the records of the changes
// that were published since it began (Replay with window) is this:
//
//   - a file that was there during the whole walk is met, in a state not older
//     than the walk, and its version says which records are in it already;
//   - a file that was not met was empty at some moment of the walk: since then
//     its records begin with one that says so, and what comes before that one
//     leads to nothing;
//   - the record that made a state which was met is handed to the journal before
//     Snapshot returns, by whoever made it or here.
func (t *Table) Snapshot(emit func(Body) error) (err error) {
	for i := range t.shards {
		t.shards[i].cells.Range(func(r fileRef, c *cell) bool {
			s := c.state.Load()
			if s.ticket != nil {
				t.journal.Submit(s.ticket)
			}
			if !s.vacant() {
				err = emit(&stateBody{file: r.key, s: s})
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stateBody is what is held on one file.
//
//	state := version uvarint, file string, owners uvarint, owner..., items uvarint, item...
//	         and if there are any, shares uvarint, share...
//	item  := index of the owner uvarint, range, mode byte, id uvarint, epoch uvarint, since varint
//	share := index of the owner uvarint, access, deny, old access, old deny byte each, id uvarint, since varint
//
// POSIX and OFD ranges come first, then SMB ranges, each in the order of the
// index. The other terms are those of a record.
type stateBody struct {
	file lock.FileKey
	s    *state
}

func (f *stateBody) AppendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, f.s.version)
	b = appendString(b, string(f.file))
	var only [1]*interval.Owner
	owners, places := only[:0], map[*interval.Owner]uint64(nil)
	note := func(o *interval.Owner) {
		if len(owners) > 0 && places == nil {
			places = map[*interval.Owner]uint64{owners[0]: 0}
		}
		if _, known := places[o]; !known {
			if places != nil {
				places[o] = uint64(len(owners))
			}
			owners = append(owners, o)
		}
	}
	f.s.each(func(it *interval.Item) bool { note(it.Owner()); return true })
	for i := range f.s.shares() {
		note(f.s.shares()[i].owner)
	}
	b = binary.AppendUvarint(b, uint64(len(owners)))
	for _, o := range owners {
		b = appendOwner(b, &o.Owner)
	}
	b = binary.AppendUvarint(b, uint64(f.s.locks()))
	f.s.each(func(it *interval.Item) bool {
		b = binary.AppendUvarint(b, places[it.Owner()])
		b = appendRange(b, it.Range())
		b = append(b, byte(it.Mode()))
		b = binary.AppendUvarint(b, uint64(it.ID()))
		b = binary.AppendUvarint(b, it.Epoch())
		b = binary.AppendVarint(b, it.Since())
		return true
	})
	if f.s.opens == nil {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(f.s.opens.list)))
	for i := range f.s.opens.list {
		sh := &f.s.opens.list[i]
		b = binary.AppendUvarint(b, places[sh.owner])
		b = append(b, byte(sh.access), byte(sh.deny), byte(sh.oldAccess), byte(sh.oldDeny))
		b = binary.AppendUvarint(b, uint64(sh.id))
		b = binary.AppendVarint(b, sh.since)
	}
	return b
}

// Restore puts a file into the table as a snapshot has it. The table must not be
// in use yet, and must not have the file.
func (t *Table) Restore(body []byte) error {
	r := reader{b: body}
	file, version := r.state()
	if r.err != nil {
		return fmt.Errorf("state record: %w", r.err)
	}
	items, shares := r.held(t.owner)
	s := &state{version: version}
	err := r.err
	if err == nil {
		err = s.fill(items)
	}
	if err == nil {
		err = s.fillShares(shares)
	}
	switch {
	case err != nil:
	case version == 0:
		err = errors.New("version 0")
	case len(r.b) > 0:
		err = fmt.Errorf("%d bytes too many", len(r.b))
	case t.find(refOf(file)) != nil:
		err = errors.New("the file was there already")
	}
	if err != nil {
		return fmt.Errorf("state record of %q: %w", file, err)
	}
	cl := t.cell(refOf(file))
	cl.state.Store(s)
	t.shard(cl.ref).count(empty, s)
	for i := range items {
		t.index(cl, items[i].Owner().Client)
		t.seen(items[i].ID())
	}
	for i := range shares {
		t.index(cl, shares[i].owner.Client)
		t.seen(shares[i].id)
	}
	return nil
}

// state reads what a state record says before its items.
func (r *reader) state() (file lock.FileKey, version uint64) {
	version, file = r.uvarint(), lock.FileKey(r.string())
	if r.err == nil {
		r.err = file.Validate()
	}
	return file, version
}

// count reads how many of something follow, each of which takes a byte at least.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}

// held reads what is held in a state. intern makes an owner that stays.
func (r *reader) held(intern func(lock.Owner) *interval.Owner) ([]interval.Item, []share) {
	owners := make([]*interval.Owner, r.count())
	for i := range owners {
		o := r.owner()
		if r.err != nil {
			return nil, nil
		}
		owners[i] = intern(o)
	}
	items := r.items(owners)
	if r.err != nil || len(r.b) == 0 { // a state without share reservations ends here
		return items, nil
	}
	return items, r.shares(owners)
}

// ownerAt reads which of the owners something is of.
func (r *reader) ownerAt(owners []*interval.Owner) *interval.Owner {
	i := r.uvarint()
	if i < uint64(len(owners)) {
		return owners[i]
	}
	r.fail(fmt.Errorf("owner %d of %d", i, len(owners)))
	return nil
}

// items reads the items of a state.
func (r *reader) items(owners []*interval.Owner) []interval.Item {
	items := make([]interval.Item, r.count())
	for i := range items {
		o := r.ownerAt(owners)
		rng, mode := r.rng(), r.mode()
		id, epoch, since := r.id(), r.uvarint(), r.time()
		if r.err == nil {
			r.err = rng.ValidFor(o.Semantics)
		}
		if r.err != nil {
			return nil
		}
		items[i] = interval.NewItem(o, rng, mode, id, since).In(epoch)
		if got := items[i].Epoch(); got != epoch {
			r.fail(fmt.Errorf("lock %d was granted in epoch %d", id, epoch))
			return nil
		}
	}
	return items
}

// shares reads the share reservations of a state.
func (r *reader) shares(owners []*interval.Owner) []share {
	list := make([]share, r.count())
	for i := range list {
		list[i] = share{
			owner: r.ownerAt(owners), access: r.access(), deny: r.access(), oldAccess: r.access(), oldDeny: r.access(),
			id: r.id(), since: r.time(),
		}
		if r.err != nil {
			return nil
		}
	}
	if len(list) == 0 {
		r.fail(errors.New("no share modes where some are announced"))
	}
	return list
}

// fillShares makes s hold the share reservations, which come from a record.
func (s *state) fillShares(list []share) error {
	for i := range list {
		sh := &list[i]
		access, deny := sh.all()
		if hit := s.shareConflict(sh.owner, access, deny); hit != nil {
			return fmt.Errorf("share modes of %s and %s exclude each other", hit.owner, sh.owner)
		}
		if s.shareOf(sh.owner) >= 0 {
			return fmt.Errorf("%s has two share modes", sh.owner)
		}
		s.setShares(list[: i+1 : i+1])
	}
	if s.vacant() {
		return errors.New("nothing is held")
	}
	return nil
}

// fill makes s hold the items, which come from a record: whatever cannot be is
// refused.
func (s *state) fill(items []interval.Item) error {
	smb := len(items)
	for i := range items {
		isSMB := items[i].Owner().Semantics == lock.SMB
		if isSMB {
			smb = min(smb, i)
		} else if smb < i {
			return errors.New("the ranges are not in order")
		}
	}
	posix, ok := interval.FromSorted(items[:smb])
	stacked, sorted := interval.FromSorted(items[smb:])
	if !ok || !sorted {
		return errors.New("the ranges are not in order, or one is there twice")
	}
	s.posix = posix
	s.setStacked(stacked)
	if len(items) == 1 {
		return nil
	}
	return s.sound(items, smb)
}

// sound reports whether these items, the first smb of which are not of SMB
// owners, can be held on one file. A zero-length range has no byte: POSIX ranges
// may have merged around it.
func (s *state) sound(items []interval.Item, smb int) error {
	solid := *s
	if some := withBytes(items[smb:]); len(some) < len(items)-smb {
		set, _ := interval.FromSorted(some) // still in order
		solid.setStacked(set)
	}
	ids := make(map[lock.ID]bool, len(items))
	last := make(map[*interval.Owner]*interval.Item)
	for i := range items {
		it := &items[i]
		if ids[it.ID()] {
			return fmt.Errorf("two locks have the id %d", it.ID())
		}
		ids[it.ID()] = true
		if it.Range().IsEmpty() {
			continue
		}
		if hit := solid.firstOther(it.Owner(), it.Range(), it.Mode()); hit != nil {
			return fmt.Errorf("%s holds %s on %s and %s %s on %s", it.Owner(), it.Mode(), it.Range(), hit.Owner(), hit.Mode(), hit.Range())
		}
		before := last[it.Owner()]
		// What was not reclaimed does not merge with what is of a later epoch.
		isSMB := i >= smb
		switch {
		case before != nil && isSMB && it.Exclusive() && before.Last() >= it.First():
			return fmt.Errorf("%s holds exclusive locks on each other", it.Owner())
		case before != nil && !isSMB && (before.Last() >= it.First() || before.Mode() == it.Mode() && before.Last()+1 == it.First() && before.Epoch() == it.Epoch()):
			return fmt.Errorf("%s holds %s on %s and %s on %s", it.Owner(), before.Mode(), before.Range(), it.Mode(), it.Range())
		}
		if !isSMB || it.Exclusive() && (before == nil || before.Last() < it.Last()) {
			last[it.Owner()] = it
		}
	}
	return nil
}

func withBytes(items []interval.Item) (some []interval.Item) {
	for _, it := range items {
		if !it.Range().IsEmpty() {
			some = append(some, it)
		}
	}
	return some
}

// seen notes an id that the log has given out.
func (t *Table) seen(id lock.ID) { t.epoch = max(t.epoch, uint64(id)>>interval.EpochShift) }

// ReplayedEpoch is the last server epoch that an id which was replayed is of.
func (t *Table) ReplayedEpoch() uint64 { return t.epoch }
