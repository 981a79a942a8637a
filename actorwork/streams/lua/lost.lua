-- Ends a message whose entry was deleted by hand while a group had it pending, so that nothing is left to take over.
--
-- KEYS  the stream
-- ARGV  the prefix of the source's keys, group, the consumer that has the entry, entry id, what to do:
--         'look'  nothing;
--         'end'   end the message that the entry was, then acknowledge the entry; message id, reason, and for a step of a run
--                 the home of that, else '';
--         'ack'   acknowledge the entry alone: it was no tracked message
--
-- Returns 'lost' if it is still as the caller has found it and nothing was done, 'gone' if it is not (another node was first),
-- 'other' if the message is not, or no longer, open at this entry, and 'told' if it was done.
--
-- The entry had the id of the message in it. A tracked message is found by its place (state.lua); the caller has searched, and
-- what it has found is checked here. What the entry said of the message is not known: whom its sender wanted to be told in a
-- reply, and its key, which `heal` in maintain.lua frees.
--
-- The step of a run ends before its state does, and the entry stays pending until both have: whatever fails in between, the
-- next search finds them and does the rest.

local stream, prefix, group, consumer, id, what = KEYS[1], unpack(ARGV, 1, 5)

local function step_of(message_id, claim, home)
  local run, number = string.match(message_id, '^([^/]+)/(%d+)%.?%d*$')
  if not run then
    run, number = string.match(message_id, '^([^/]+)/undo/(%d+)$')
    number = run and RESULT + 1 + number
  end
  local flow = run and home ~= '' and home .. '/' .. run .. '/' .. whole(number)
  if flow and away.is(home) then
    return flow -- The claim is looked at there.
  end
  local r = flow and run_at(home, run)
  return r and claim == step_claim(r.secret, message_id) and flow or nil
end

local pending = redis.pcall('XPENDING', stream, group, id, id, 1)
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) or string.find(pending.err, 'WRONGTYPE', 1, true) then
    return 'gone'
  end
  return redis.error_reply(pending.err)
end
if not pending[1] or pending[1][2] ~= consumer or redis.call('XRANGE', stream, id, id)[1] then
  return 'gone'
end
if what == 'look' then
  return 'lost'
end

local lacking = lacks('ack of ' .. stream, needs_of_ack, stream, group)
if lacking then
  return redis.error_reply(lacking)
end
if what == 'end' then
  local message_id, reason, home = ARGV[6], ARGV[7], ARGV[8]
  if lives.place(prefix, message_id) ~= place_at(level_of(prefix, stream), id) then
    return 'other'
  end
  lives.part(prefix, message_id)
  local claim, ttl = unpack(redis.call('HMGET', prefix .. 'state:' .. message_id, 'claim', 'ttl'))
  local flow = step_of(message_id, claim, home)
  lacking = lives.lacks(prefix) or not flow and lacks('result', needs_of_result, prefix) or flow and lacks_join(flow)
  if lacking then
    return redis.error_reply(lacking)
  end
  local failure = { type = 'Lost', reason = reason, traceback = '' }
  if flow then
    ended_steps[1] = { flow = flow, id = message_id, claim = claim, ended = { how = KIND_OF_FAILURE.Lost, failure = failure } }
    join_all()
    lives.finish(prefix, message_id, claim, 'rejected', failure, 1, 0)
  else
    local outcome = { source = source_of(prefix), id = message_id, status = 'rejected', failure = failure }
    store_outcome(prefix, message_id, cjson.encode(outcome), ttl or '', claim, '', false)
  end
end
redis.call('XACK', stream, group, id)
return 'told'
