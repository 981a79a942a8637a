-- What was forwarded to a slot of a cluster. (A part: scripts begin with the parts they need.)
--
-- An entry of an outbox that was forwarded, and not deleted since its node died, is forwarded again. The mark of its id says
-- that it is here already, for a day. It may take longer until a node comes back, so the last entry of each outbox is noted that
-- was forwarded here: entries come in the order of the outbox, so those before it were, too.
--
-- The note is asked only for entries of which the marks may have expired: should an outbox begin again at an earlier id (a
-- failover that lost writes, to a server whose clock is behind), nothing that is new may be taken for what was forwarded.

local forwarded = {}

do
  local TRUSTED_MS = 43200000 -- Half the time for which marks are kept.

  local function at()
    return 'actorwork:{' .. KEYS.tag .. '}:forwarded'
  end

  -- Whether an entry of the outbox of a source was forwarded, as far as the marks do not say so.
  function forwarded.is_done(source, entry)
    local ms, seq = string.match(entry, '^(%d+)%-(%d+)$')
    if not ms or now_ms() - ms < TRUSTED_MS then
      return false
    end
    local last = redis.call('HGET', at(), source)
    return last and not_after(ms, seq, last) or false
  end

  -- Notes the last of some that were forwarded. If that is forbidden, the marks alone protect.
  function forwarded.note(source, entry)
    local ms, seq = string.match(entry, '^(%d+)%-(%d+)$')
    local last = redis.pcall('HGET', at(), source)
    if ms and type(last) ~= 'table' and not (last and not_after(ms, seq, last)) then
      redis.pcall('HSET', at(), source, entry)
    end
  end
end
