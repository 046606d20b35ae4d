package state

// Fork makes a store that begins as this one is now and goes its own way: for trying commands out. It has no subscribers,
// and costs a walk over tables to compute what is kept beside them, while Apply waits only for a pointer.
func (s *Store) Fork() *Store {
	s.mu.Lock()
	db, index := s.db.Snapshot(), s.View().index
	s.mu.Unlock()
	f := New()
	v := &View{txn: db.Txn(false), index: index}
	f.db, f.derived = db, derive(v)
	f.view.Store(v)
	return f
}
