-- Does what scripts in other slots of a cluster have left to do in this one (away.lua), in their order.
--
-- KEYS  the source in whose slot it is done, or the key
-- ARGV  the source of the outbox; then for each: its entry there, how many values, and those:
--         'end', flow, message id, claim, how, value, failure as JSON or ''   a step of a run that is here has ended
--         'start', JSON                                     a run begins here
--         'expand', JSON, message id, claim                 one that is here gets more steps
--         'adopt', home, run, step, home and run of the other, claim, message id   another run is in the place of a step
--         'cancel', home, run, reason                       a run is cancelled
--         'drop', message id, reason                        a message is
--         'outcome', message id, outcome, ttl, claim, address   a message has ended, as the run in its place has
--         'settle', notes, noted, group, stream, entry id, message id, its key, its unique key, outcome, ttl, claim, address, how
--           many values say more of its life, those    a delivery is settled that is held for a batch (streams/joint.py)
--         'index', 'set' or 'expire', home, ms              where a run is (`actorwork:flow:<run>`)
--         'home', home                                      there are runs (`actorwork:flows`)
--
-- Returns whether something is left to be done in other slots, in the outbox of this one.
--
-- Each may be done twice, or once more after all that came later, within a day (forwarded.lua). Then it changes nothing: a step ends once, and is known by the
-- attempt in the id of its message; a run is started, and expanded by one delivery, once; what is dropped is gone; what is
-- settled is not held any more.

local does = {}

does['end'] = function(i)
  local ended = { how = ARGV[i + 3] }
  if ended.how == 'done' then
    ended.value = ARGV[i + 4]
  end
  if ARGV[i + 5] ~= '' then
    ended.failure = cjson.decode(ARGV[i + 5])
  end
  ended_steps[#ended_steps + 1] = { flow = ARGV[i], id = ARGV[i + 1], claim = ARGV[i + 2], ended = ended }
end

function does.start(i)
  start_run(cjson.decode(ARGV[i]))
end

function does.expand(i)
  local new = cjson.decode(ARGV[i])
  local r = run_at(new.home, new.run)
  if r and redis.call('HSETNX', r.state, 'x' .. new.mark, 1) == 1 then
    expand_run(new, ARGV[i + 1], ARGV[i + 2])
  end
end

local function cancel(home, run, reason)
  if away.is(home) then
    away.act(home, 'cancel', home, run, reason)
    return
  end
  local r = run_at(home, run)
  if r then
    close_run(r, 'CANCELLED', reason)
  end
end

function does.adopt(i)
  local home, run, step, inner_home, inner_run, claim, id = unpack(ARGV, i, i + 6)
  if not adopt_at(home, run, tonumber(step), inner_home, inner_run, claim, id) then
    cancel(inner_home, inner_run, "the run of '" .. id .. "' has ended")
  end
end

function does.cancel(i)
  cancel(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end

function does.drop(i)
  local prefix, id, reason = 'actorwork:{' .. KEYS[1] .. '}:', ARGV[i], ARGV[i + 1]
  local place = lives.place(prefix, id)
  if not (drop(prefix, '~' .. id, 'Cancelled', reason) or drop(prefix, '=' .. id, 'Cancelled', reason)
    or place and place ~= '' and drop(prefix, place, 'Cancelled', reason)) then
    cancels.note(prefix, id, reason, false) -- A node has it in flight.
  end
end

function does.outcome(i)
  store_outcome('actorwork:{' .. KEYS[1] .. '}:', ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
end

function does.settle(i)
  local notes, noted, group, stream, entry, message_id, key, unique = unpack(ARGV, i, i + 7)
  local prefix = 'actorwork:{' .. KEYS[1] .. '}:'
  local place = place_at(level_of(prefix, stream), entry)
  if redis.call('HGET', notes, place) ~= noted then
    return
  end
  if ARGV[i + 8] ~= '' then
    local outcome, ttl, claim, reply_to, lived = unpack(ARGV, i + 8, i + 12)
    store_outcome(prefix, message_id, outcome, ttl, claim, reply_to, false, i + 13, i + 12 + lived)
  end
  if #ack_and_delete(stream, group, { entry }) > 0 then
    leave(prefix, place, key, unique)
  end
  redis.call('HDEL', notes, place)
end

function does.index(i)
  local home = ARGV[i + 1]
  if ARGV[i] == 'set' then
    redis.call('SET', KEYS[1], home, 'NX')
  end
  local at = redis.call('GET', KEYS[1])
  if at ~= home and at ~= home .. '/' then -- The latter is a claim (streams/forwarding.py).
    return -- It was forgotten, and another run has the id.
  elseif ARGV[i] == 'set' then
    redis.call('SET', KEYS[1], home)
  else
    redis.call('PEXPIRE', KEYS[1], ARGV[i + 2])
  end
end

function does.home(i)
  redis.call('SADD', KEYS[1], ARGV[i])
end

-- Keys that are no sources have no notes of what was forwarded: there is one for each run.
local IS_OF_KEY = { index = true, home = true }

local i, last = 2, nil
while i <= #ARGV do
  local what = ARGV[i + 2]
  if IS_OF_KEY[what] then
    does[what](i + 3)
  elseif not forwarded.is_done(ARGV[1], ARGV[i]) then
    does[what](i + 3)
    join_all()
  end
  last = not IS_OF_KEY[what] and ARGV[i] or last
  i = i + 2 + ARGV[i + 1]
end
if last then
  forwarded.note(ARGV[1], last)
end
return redis.call('EXISTS', 'actorwork:{' .. KEYS.tag .. '}:outbox')
