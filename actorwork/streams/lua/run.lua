-- Starts a run of a workflow, or changes one.
--
-- KEYS  the run
-- ARGV  what to do; for 'start' the run as JSON (streams/runs.py), else its home and id, then:
--         'cancel'  the reason
--         'asks'    the name of a signal: returns its step as JSON; '' if the run takes no such signal
--         'signal'  the name of the signal, its value as JSON
--         'version' nothing: returns what changes when more steps have not succeeded; '' if the run cannot be retried
--         'retry'   nothing for all that have not succeeded; else the version for which the steps were chosen, and the key where
--                   their numbers are: returns 2 if it has another one by now
--         'forget'  how many of its steps are dropped already: returns 2 if that is to be called again, for as many more as are
--                   FORGOTTEN_AT_ONCE
--         'info'    how many failures at most, and the fields of the run that are wanted
--         'pause', 'resume', 'more'  nothing
--
-- Also 'page', before a large run is started: where, steps as JSON, for how many ms they are kept; and 'choose', before some steps
-- of one are retried: where, and their numbers as JSON.
--
-- Returns 1 if this changed something, else 0; for 'more' 0 if nothing is to be done but what sources cannot take. Sent again
-- after a lost reply it changes nothing more.

local PAGES_KEPT_MS = 3600000

local what = ARGV[1]
if what == 'page' then
  add_page(ARGV[2], ARGV[3], ARGV[4])
  return 1
elseif what == 'choose' then
  local chosen = {}
  for i, step in ipairs(cjson.decode(ARGV[3])) do
    chosen[2 * i - 1], chosen[2 * i] = step, 1
  end
  write_pairs(ARGV[2], chosen)
  redis.call('PEXPIRE', ARGV[2], PAGES_KEPT_MS)
  return 1
end

if what == 'start' then
  local new = cjson.decode(ARGV[2])
  local is_new = start_run(new)
  join_all()
  return is_new and 1 or 0
end

local r = run_at(ARGV[2], ARGV[3])
if not r then
  return what == 'info' and {} or (what == 'asks' or what == 'version') and '' or 0
end
if what == 'version' then
  return retrying.may(r) and retrying.version_of(r) or ''
end
if what == 'asks' then
  local step = OPEN[r.status] and redis.call('HGET', r.at .. ':asks', ARGV[4])
  return step and state_of(r, step) ~= 2 and redis.call('HGET', r.at .. ':steps', step) or ''
end

if what == 'info' then
  local failures, asked, most = {}, {}, tonumber(ARGV[4])
  pcall(function() -- Its keys may be damaged (`guarded`): then its reason says so.
    for _, suffix in ipairs({ ':fails', ':held' }) do
      for _, step in ipairs(listed.of(r, suffix, most + 1)) do
        if #failures < most and step ~= RESULT then
          failures[#failures + 1] = { name_of(r, step), redis.call('HGET', r.at .. ':ends', step) }
        end
      end
    end
    local asking = listed.of(r, ':asking')
    local plans = fetch(r.at .. ':steps', asking, {})
    for i, step in ipairs(asking) do
      asked[i] = listed.name(plans[step])
    end
  end)
  -- Not all of the hash: the template of the result has a place for each member, and who waits asks again and again.
  return { redis.call('HMGET', r.at, unpack(ARGV, 5)), failures, asked }
end

local FORGOTTEN_AT_ONCE = 1000
local done = false
if what == 'cancel' then
  done = close_run(r, 'CANCELLED', ARGV[4])
elseif what == 'pause' then
  if r.status == 'STARTED' then
    set_status(r, 'PAUSED')
    done = true
  end
elseif what == 'resume' then
  if r.status == 'PAUSED' then
    continue(r)
    send_ready(r)
    done = true
  end
elseif what == 'more' then
  local is_more = do_more(r)
  join_all()
  return is_more and 1 or 0
elseif what == 'signal' then
  local step = OPEN[r.status] and tonumber(redis.call('HGET', r.at .. ':asks', ARGV[4]) or '')
  if step then
    local state = state_of(r, step)
    if state == 1 then
      redis.call('ZREM', r.due, r.run .. '/' .. step)
      listed.drop(r, ':asking', step)
      done = end_step(r, step, state, { how = 'done', value = ARGV[5] })
    elseif state == 0 or state == 3 then
      done = redis.call('HSETNX', r.at .. ':signals', ARGV[4], ARGV[5]) == 1
    end
  end
elseif what == 'retry' then
  local version, chosen = ARGV[4], ARGV[5]
  if not retrying.may(r) then
    free(chosen or r.at .. ':again')
  elseif version and version ~= retrying.version_of(r) then
    free(chosen)
    return 2
  else
    free(r.at .. ':again')
    if version then
      redis.call('RENAME', chosen, r.at .. ':again')
    end
    retrying.begin(r, version ~= nil)
    done = true
  end
elseif what == 'forget' then
  if not OPEN[r.status] and redis.call('HEXISTS', r.at, 'closing') == 0 then
    -- Lives that are not in the run: a later one under its id has its own. They go first, and the run with the last of them.
    local lives, first = 'actorwork:{' .. r.home .. '}:state:' .. r.run .. '/', tonumber(ARGV[4])
    local beyond = math.min(r.total, first + FORGOTTEN_AT_ONCE)
    for of_page = first, beyond - 1, 500 do
      local gone = {}
      for step = of_page, math.min(of_page + 500, beyond) - 1 do
        gone[#gone + 1] = lives .. whole(step)
      end
      free(unpack(gone))
    end
    if beyond < r.total then
      return 2
    end
    redis.call('DEL', r.at)
    if not KEYS.tag then -- On a cluster, the caller does so: it is in another slot.
      redis.call('DEL', 'actorwork:flow:' .. r.run)
    end
    for _, suffix in ipairs(SUFFIXES) do
      free(r.at .. suffix)
    end
    redis.call('ZREM', 'actorwork:{' .. r.home .. '}:flows', r.run)
    for _, what in ipairs({ 'gone', 'more', 'close', 'undo', 'error' }) do
      redis.call('ZREM', r.due, r.run .. '/' .. what)
    end
    done = true
  end
end
join_all()
return done and 1 or 0
